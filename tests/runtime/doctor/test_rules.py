from dataclasses import replace

import pytest

from pnseg_runtime.bundle import EngineFile
from pnseg_runtime.cuda.flavours import FLAVOURS
from pnseg_runtime.cuda.nvidia import OLD_DRIVER, Driver, Gpu
from pnseg_runtime.doctor.facts import PACKAGES, Facts
from pnseg_runtime.doctor.probe import Attempt, tries
from pnseg_runtime.doctor.rules import ON_TENSORRT, RULES, Case, findings, misfit
from tests.fakes import fake_bundle

GPU = Gpu("NVIDIA GeForce RTX 3090", (8, 6), 24.0)
CPU_ONLY = Facts(
    cpu="AMD EPYC",
    flags=("avx2", "avx512_vnni"),
    cores=8,
    packages={"onnxruntime": "1.32.0", "openvino": "2026.4.1"},
)
WITH_GPU = replace(
    CPU_ONLY,
    packages={"onnxruntime-gpu": "1.32.0", "tensorrt-rtx": "1.7.1.116", "pycuda": "2026.1"},
    cuda={"onnxruntime-gpu": 13, "tensorrt-rtx": 13},
    driver=Driver((13, 0), "580.82", 0, (GPU,)),
    libraries={"libcudnn.so.9": True},
)


def engine(**changes):
    values = {
        "file": "engines/encoder.engine",
        "sha256": "",
        "bytes": 0,
        "flavour": "rtx",
        "version": "1.7.1.116",
        "architectures": ["sm86"],
        "precision": "float16",
        "graph": "encoder",
        "inputs": {},
        "outputs": {},
        "profiles": [],
        "census": {},
        "layers": {},
        "seconds": 1.0,
        "log": {"file": "log", "sha256": "", "bytes": 0},
    }
    return EngineFile.model_validate(values | changes)


def with_engines(*engines):
    return fake_bundle().manifest.model_copy(update={"engines": list(engines)})


def told(facts, manifest=None, attempts=()):
    return [
        f"{finding.level}: {finding.says} → {finding.remedy}" for finding in findings(Case(facts, manifest, attempts))
    ]


@pytest.mark.parametrize("facts", [CPU_ONLY, WITH_GPU, replace(CPU_ONLY, quota=2.0)])
def test_a_sound_machine_has_no_findings(facts):
    assert told(facts, with_engines(engine()) if facts is WITH_GPU else None) == []


# Each planted fault, and what of the sentence a user needs: the level, the cause, the remedy.
FAULTS = {
    "both packages of ONNX Runtime": (
        replace(WITH_GPU, packages=WITH_GPU.packages | {"onnxruntime": "1.32.0"}),
        ("problem", "both installed", "pip uninstall -y onnxruntime onnxruntime-gpu"),
    ),
    "a driver older than the packages": (
        replace(WITH_GPU, driver=replace(WITH_GPU.driver, cuda=(11, 8), version="520.61")),
        ("problem", "520.61", "CUDA up to 11.8", "onnxruntime-gpu 1.32.0 needs CUDA 13", "driver 580.65"),
    ),
    "TensorRT for CUDA 13 on a driver of CUDA 12": (
        replace(
            WITH_GPU,
            packages=WITH_GPU.packages | {"tensorrt-cu13": "11.0"},
            cuda={"tensorrt-cu13": 13},
            driver=replace(WITH_GPU.driver, cuda=(12, 4)),
        ),
        ("problem", "tensorrt-cu13 11.0 needs CUDA 13", "driver 580.65"),
    ),
    "an update without a restart": (
        replace(WITH_GPU, driver=Driver((13, 0), "580.82", 803)),
        ("problem", "error 803", "restart the machine"),
    ),
    "a container without its GPU": (
        replace(WITH_GPU, driver=Driver((13, 0), "580.82", 100)),
        ("problem", "no GPU", "docker run --gpus all"),
    ),
    "a container without the driver's library": (
        replace(CPU_ONLY, driver=Driver(version="580.82")),
        ("problem", "libcuda.so.1 is not found", "NVIDIA Container Toolkit"),
    ),
    "a GPU that is too old": (
        replace(WITH_GPU, driver=replace(WITH_GPU.driver, gpus=(Gpu("Tesla P100", (6, 0), 16.0),))),
        ("problem", "Tesla P100 has compute capability 6.0", "at least 7.5"),
    ),
    "no cuDNN": (
        replace(WITH_GPU, libraries={"libcudnn.so.9": False}),
        ("problem", "cuDNN 9 (libcudnn.so.9) is not found", 'pip install "onnxruntime-gpu[cuda,cudnn]"'),
    ),
    "a GPU that nothing uses": (
        replace(CPU_ONLY, driver=WITH_GPU.driver),
        ("hint", "RTX 3090 is here, but no package", 'pip install "onnxruntime-gpu[cuda,cudnn]"'),
    ),
    "a CPU whose instructions nothing uses": (
        replace(CPU_ONLY, packages={"onnxruntime": "1.32.0"}),
        ("hint", "avx512_vnni", "pnseg[openvino]"),
    ),
    "a CPU without AVX2": (replace(CPU_ONLY, flags=("avx512f",)), ("hint", "no AVX2", "newer machine")),
    "a container with fewer cores than it sees": (
        replace(CPU_ONLY, quota=2.5),
        ("hint", "sees 8 cores but may use 2.5", "--threads 2"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_told_with_its_remedy(fault):
    facts, parts = FAULTS[fault]
    assert any(all(part in sentence for part in parts) for sentence in told(facts))


RTX, CLASSIC = "pnseg build BUNDLE --target rtx:sm86", "pnseg build BUNDLE --target tensorrt"
ENGINES = {
    "another architecture": (engine(architectures=["sm89"]), ("for sm89, but NVIDIA GeForce RTX 3090 is sm86", RTX)),
    "another version": (engine(version="1.6.0"), ("built by TensorRT for RTX 1.6.0, installed is 1.7.1.116", RTX)),
    "a library that is not there": (
        engine(flavour="tensorrt"),
        ("TensorRT is not installed", "pnseg[tensorrt]", CLASSIC),
    ),
}


@pytest.mark.parametrize("fault", ENGINES)
def test_engines_that_do_not_fit_are_told_with_how_to_build_them_here(fault):
    wrong, parts = ENGINES[fault]
    (sentence,) = told(WITH_GPU, with_engines(wrong))
    assert sentence.startswith("problem: ")
    assert all(part in sentence for part in parts)


def test_nothing_is_to_be_built_that_cannot_be():
    turing = replace(WITH_GPU, driver=replace(WITH_GPU.driver, gpus=(Gpu("Tesla T4", (7, 5), 16.0),)))
    for manifest in (with_engines(engine()), fake_bundle().manifest):
        (sentence,) = told(turing, manifest)
        assert sentence.endswith("pnseg build BUNDLE --target tensorrt")


def test_engines_of_one_flavour_that_fit_are_enough():
    assert told(WITH_GPU, with_engines(engine(), engine(flavour="tensorrt"))) == []


def test_engines_without_a_gpu_are_no_problem():
    (sentence,) = told(
        replace(CPU_ONLY, packages=CPU_ONLY.packages | {"tensorrt-rtx": "1.7.1.116"}), with_engines(engine())
    )
    assert sentence.startswith("hint: ")
    assert "there is no GPU here" in sentence


def test_a_driver_that_serves_packages_but_not_the_kernels_is_told():
    facts = replace(WITH_GPU, cuda={}, driver=replace(WITH_GPU.driver, cuda=(12, 4), version="550.54"))
    assert told(facts, fake_bundle().manifest.model_copy(update={"engines": []}), [])[0].startswith("hint")
    (sentence,) = told(facts, with_engines(engine()))
    assert "550.54 serves CUDA up to 12.4, but the kernels of --backend cuda need CUDA 13" in sentence
    assert "driver 580.65" in sentence
    failed = [Attempt("cuda", "float16", error=f"cuda: the driver does not take the kernels; {OLD_DRIVER}.")]
    assert "install driver 580.65" in told(WITH_GPU, with_engines(engine()), failed)[0]


def test_one_engine_that_fits_is_enough():
    assert misfit(engine(), WITH_GPU) is None
    assert told(WITH_GPU, with_engines(engine(architectures=["sm89"]), engine())) == []


def test_what_runs_takes_the_first_gpu_so_engines_for_another_do_not_fit():
    other = replace(GPU, name="NVIDIA L4", capability=(8, 9))
    facts = replace(WITH_GPU, driver=replace(WITH_GPU.driver, gpus=(other, GPU)))
    assert misfit(engine(architectures=["sm89"]), facts) is None
    told_of = misfit(engine(), facts)
    assert told_of == (f"they are for sm86, but NVIDIA L4 is sm89; {GPU.name} is sm86: CUDA_VISIBLE_DEVICES=1 takes it")


def test_engines_need_pycuda():
    packages = {name: number for name, number in WITH_GPU.packages.items() if name != "pycuda"}
    (sentence,) = told(replace(WITH_GPU, packages=packages), with_engines(engine()))
    assert "pip install pycuda" in sentence


def test_backends_that_were_tried_and_failed_are_told():
    broken = Attempt("onnxruntime", "float32", error="onnxruntime: it took its process down.")
    assert any("took its process down" in sentence for sentence in told(CPU_ONLY, attempts=[broken]))
    said = "onnxruntime-cuda: CUDAExecutionProvider does not start (x)."
    absent = Attempt("onnxruntime-cuda", "float32", error=said, not_started=True)
    assert any("does not start (x)" in sentence for sentence in told(WITH_GPU, attempts=[absent]))
    assert told(CPU_ONLY, attempts=[absent]) == []


def test_what_did_not_start_is_no_matter_of_words():
    missing = Attempt("onnxruntime-rtx", "float32", error="onnxruntime-rtx: not in this package, so it does not start.")
    assert told(WITH_GPU, attempts=[missing]) == told(WITH_GPU)
    assert told(WITH_GPU, attempts=[replace(missing, not_started=True)]) != told(WITH_GPU)


def test_tensorrt_without_engines_is_a_hint_to_build_them():
    (sentence,) = told(WITH_GPU, fake_bundle().manifest)
    assert sentence == (
        "hint: The bundle has no engines, which are what runs without ONNX Runtime on this GPU. "
        "→ pnseg build BUNDLE --target rtx:sm86"
    )


@pytest.mark.parametrize("backend", ["tensorrt", "cuda"])
def test_engines_that_fit_and_do_not_run_are_a_problem(backend):
    failed = [Attempt(backend, "float16", error=f"{backend}: cannot load this engine.")]
    (sentence,) = told(WITH_GPU, with_engines(engine()), failed)
    assert sentence.startswith(f"problem: Engines fit this GPU, but do not run: {backend}: cannot load this engine.")
    assert told(WITH_GPU, with_engines(engine()), [Attempt(backend, "float16", ms=3.0)]) == []


@pytest.mark.parametrize(("cuda", "package"), [(13, "tensorrt-cu13<11"), (12, "tensorrt-cu12<11")])
def test_a_provider_without_its_tensorrt_is_a_hint_and_no_problem(cuda, package):
    error = "onnxruntime-tensorrt: TensorrtExecutionProvider does not start (Please install TensorRT libraries)."
    failed = [Attempt(ON_TENSORRT, precision, error=error, not_started=True) for precision in ("float32", "int8")]
    facts = replace(WITH_GPU, cuda={"onnxruntime-gpu": cuda})
    (sentence,) = told(facts, attempts=failed)
    assert sentence.startswith("hint: --backend onnxruntime-tensorrt needs TensorRT 10 (libnvinfer.so.10), which")
    assert f'pip install "{package}"' in sentence
    there = replace(facts, libraries=facts.libraries | {"libnvinfer.so.10": True})
    assert [each.partition(":")[0] for each in told(there, attempts=failed)] == ["problem", "problem"]


def test_backends_of_engines_are_tried_in_the_engines_precisions_alone():
    tried = tries(with_engines(engine()))
    assert [pair for pair in tried if pair[0] in {"tensorrt", "cuda"}] == [("tensorrt", "float16"), ("cuda", "float16")]
    assert ("onnxruntime", "float32") in tried
    assert not {"tensorrt", "cuda"} & {name for name, _ in tries(fake_bundle().manifest)}


def test_every_rule_has_a_planted_fault():
    cases = [Case(facts) for facts, _ in FAULTS.values()]
    cases += [Case(WITH_GPU, with_engines(wrong)) for wrong, _ in ENGINES.values()]
    cases.append(Case(replace(WITH_GPU, packages={"onnxruntime-gpu": "1"}), with_engines(engine())))
    providers = ("onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt")
    attempts = [Attempt(name, "float32", error="no", not_started=True) for name in providers]
    cases.append(Case(WITH_GPU, attempts=attempts))
    cases.append(Case(WITH_GPU, fake_bundle().manifest))
    cases.append(Case(WITH_GPU, with_engines(engine()), [Attempt("cuda", "float16", error="cuda: no.")]))
    assert [rule.__name__ for rule in RULES if not any(list(rule(case)) for case in cases)] == []


def test_problems_come_first():
    facts = replace(CPU_ONLY, quota=1.0, packages={"onnxruntime": "1", "onnxruntime-gpu": "1"})
    levels = [finding.level for finding in findings(Case(facts))]
    assert levels == sorted(levels, key=lambda level: level != "problem")
    assert {"problem", "hint"} <= set(levels)


@pytest.mark.parametrize("package", [name for flavour in FLAVOURS.values() for name in flavour.packages])
def test_under_whatever_name_tensorrt_is_installed_it_runs_networks_on_a_gpu(package):
    facts = replace(WITH_GPU, packages={"onnxruntime": "1.32.0", package: "1.7.1.116"})
    assert not any("no package that runs networks" in each for each in told(facts))
    assert package in PACKAGES
