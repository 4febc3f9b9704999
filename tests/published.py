"""The golden networks, loaded from checkpoints in the published layout."""

from pnseg_train.models.backbones import ConvNeXtFeatures
from pnseg_train.models.prompter import Prompter
from pnseg_train.models.segmentor import Segmentor, sam_segmentor
from tests import golden

#: A golden prompter and the number of one of its images.
PROMPTERS = [("prompter_pannuke", 0), ("prompter_pannuke", 1)] + [("prompter_cpm17", i) for i in range(3)]


def load_prompter(name: str) -> Prompter:
    """A golden prompter, ready to predict."""
    config = golden.document(name)["config"]
    backbone = ConvNeXtFeatures(tuple(config["backbone"]["depths"]), tuple(config["backbone"]["dims"]))
    prompter = Prompter(backbone, config["hidden_dim"], config["num_outs"], config["space"], config["num_classes"])
    prompter.load_state_dict(golden.checkpoint(name)["model"], strict=True)
    return prompter.eval()


def load_segmentor() -> Segmentor:
    """The golden segmentor, ready to predict."""
    config = golden.document("segmentor_tiny")["config"]
    network = sam_segmentor(
        config["embed_dim"], config["depth"], config["num_heads"], tuple(config["global_attn_indexes"])
    )
    network.load_state_dict(golden.checkpoint("segmentor_tiny")["model"], strict=True)
    return network.eval()
