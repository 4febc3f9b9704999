import logging

from pnseg_train.provenance import logged_to


def test_a_log_ends_with_its_training(tmp_path, caplog):
    ours = logging.getLogger("pnseg_train")
    before = (ours.level, list(ours.handlers))
    with logged_to(tmp_path / "train.log"):
        logging.getLogger("pnseg_train.fit").info("step %d", 3)
    logging.getLogger("pnseg_train.fit").warning("later")
    assert (ours.level, ours.handlers) == before
    assert (tmp_path / "train.log").read_text().splitlines()[0].endswith(" INFO step 3")
    assert len((tmp_path / "train.log").read_text().splitlines()) == 1
