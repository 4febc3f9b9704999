"""The binaries that come with pnseg are those of its sources, and use what the record says of the GPU's resources."""

import json
import re
import shutil

import pytest

from pnseg_runtime.cuda import binaries, builder
from pnseg_runtime.cuda.driver import ARGUMENTS
from pnseg_runtime.errors import BackendError
from tests.runtime.cuda.emulated import kernel_library

LETTERS = {"int": "i", "float": "f", "double": "d"}


def signatures():
    """Kernel → its arguments as the driver packs them, from the sources."""
    found = {}
    for path in binaries.KERNELS.glob("*.cu"):
        for name, arguments in re.findall(r"^KERNEL (\w+)\((.*?)\) \{", path.read_text(encoding="utf-8"), re.M | re.S):
            kinds = [argument.split()[0] if "*" not in argument else "P" for argument in arguments.split(",")]
            found[name] = "".join(LETTERS.get(kind, kind) for kind in kinds)
    return found


def test_every_kernel_is_launched_with_the_arguments_of_its_source():
    assert signatures() == ARGUMENTS
    assert sorted(binaries.kernel_names(binaries.KERNELS / "all.cu")) == sorted(ARGUMENTS)


def test_the_binaries_were_built_from_these_sources():
    record = binaries.record()
    assert record["sources"] == binaries.source_hash(), "a kernel has changed: make kernels"
    assert record["flags"] == list(builder.FLAGS)
    expected = {f"kernels.sm{a}.cubin" for a in binaries.ARCHITECTURES} | {f"kernels.sm{a}.ptx" for a in binaries.PTX}
    assert set(record["binaries"]) == expected


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0), (12, 1)])
def test_every_gpu_finds_a_binary_with_all_kernels(capability):
    binary = binaries.binary_for(capability)
    assert binary.startswith(b"\x7fELF")
    assert all(name.encode() in binary for name in ARGUMENTS)


@pytest.mark.parametrize(
    ("capability", "target"),
    [((8, 7), b".target sm_75"), ((11, 0), b".target sm_75"), ((13, 0), b".target sm_120")],
)
def test_tegra_and_a_gpu_without_a_binary_compile_ptx(capability, target):
    assert target in binaries.binary_for(capability)


def test_a_gpu_that_is_too_old_is_told_so():
    with pytest.raises(BackendError, match=r"compute capability 6\.1.*7\.5 or later.*--backend onnxruntime"):
        binaries.binary_for((6, 1))


def test_a_binary_that_is_not_the_one_that_was_built_is_refused(tmp_path, monkeypatch):
    shutil.copytree(binaries.BINARIES, tmp_path / "bin")
    monkeypatch.setattr(binaries, "BINARIES", tmp_path / "bin")
    (tmp_path / "bin" / "kernels.sm86.cubin").write_bytes(b"something else")
    with pytest.raises(BackendError, match=r"kernels\.sm86\.cubin.*install pnseg again"):
        binaries.binary_for((8, 6))


def test_no_kernel_spills_and_every_one_fits_a_block():
    for kernels in binaries.record()["resources"].values():
        assert set(kernels) == set(ARGUMENTS)
        for name, used in kernels.items():
            assert used["spill_stores"] == used["spill_loads"] == 0, name
            # 65,536 registers, the most threads that the host launches in one block.
            assert used["registers"] * 1024 <= 65536, name
            assert used["shared"] <= 48 << 10, name


COMPILERS = {"nvcc": builder.nvcc, "nvrtc": builder.nvrtc}


def need(compiler):
    if compiler == "nvcc" and not shutil.which("nvcc"):
        pytest.skip("there is no nvcc")
    if compiler == "nvrtc":
        pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")
        from cuda.bindings import nvrtc

        try:
            nvrtc.nvrtcVersion()
        except RuntimeError as error:
            pytest.skip(f"NVRTC does not load ({error})")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", binaries.ARCHITECTURES)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_kernels_compile_for_every_architecture_without_spills(compiler, architecture):
    need(compiler)
    binary, log = COMPILERS[compiler](architecture, False)
    assert binary.startswith(b"\x7fELF")
    used = builder.resources(log)
    assert set(used) == set(ARGUMENTS)
    assert all(kernel["spill_stores"] == kernel["spill_loads"] == 0 for kernel in used.values())
    name = builder.compiler()[0]
    if name == binaries.record()["compiler"] and compiler == name.split()[0].lower():
        recorded = binaries.BINARIES / f"kernels.sm{architecture}.cubin"
        assert binary == recorded.read_bytes(), "the same compiler makes another binary: make kernels"
        assert used == binaries.record()["resources"][f"sm{architecture}"]


def test_resources_are_read_from_the_compilers_log():
    log = """ptxas info    : Compiling entry function 'one' for 'sm_86'
    64 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 47 registers, used 1 barriers, 1024 bytes smem, 448 bytes cmem[0]
ptxas info    : Compiling entry function 'two' for 'sm_86'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers, 392 bytes cmem[0]
"""
    assert builder.resources(log) == {
        "one": {"registers": 47, "stack": 64, "spill_stores": 8, "spill_loads": 12, "shared": 1024},
        "two": {"registers": 8, "stack": 0, "spill_stores": 0, "spill_loads": 0, "shared": 0},
    }


def test_the_record_is_json_that_is_the_same_after_reading():
    text = binaries.RECORD.read_text(encoding="utf-8")
    assert json.dumps(json.loads(text), indent=2) + "\n" == text


def test_the_emulated_kernels_are_those_of_the_record():
    assert kernel_library().is_file()
