"""Builds the C library once per instruction set, and the extension module that links them.

What the compiler can do (target, vector flags, OpenMP) is asked of the compiler itself, by compiling small programs, so
cross-compiling works. Everything that is not code is in pyproject.toml.
"""

import glob
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy
from setuptools import Extension, setup
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError, PlatformError

FLAGS = ["-O3", "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
UNIX_FLAGS = ["-fvisibility=hidden", "-fPIC", "-Wall", "-Wextra"]
# Instruction set (its source is csrc/isa_<name>.c): macro of its architecture, flags, macro that these must define.
ISAS = {
    "generic": (None, [], None),
    "avx2": ("__x86_64__", ["-mavx2", "-mfma"], "__AVX2__"),
    "avx512": (
        "__x86_64__",
        ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
        "__AVX512F__",
    ),
    "neon": ("__aarch64__", [], "__ARM_NEON"),
}
STUBS = [f"csrc/isa_{name}.c" for name in ISAS]
CORE = sorted({path.replace(os.sep, "/") for path in glob.glob("csrc/*.c")} - set(STUBS))
# distutils follows no #include: without this list an edited kernel would leave a stale module.
HEADERS = sorted(glob.glob("csrc/*.h") + glob.glob("csrc/kernels/*"))

if sys.platform == "darwin" and "ARCHFLAGS" not in os.environ:
    # A universal Python would compile every file for both architectures at once, which vector flags do not survive.
    machine = platform.machine()
    os.environ["ARCHFLAGS"] = f"-arch {machine}"
    target = sysconfig.get_config_var("MACOSX_DEPLOYMENT_TARGET") or "11.0"
    if machine == "arm64" and int(str(target).split(".")[0]) < 11:
        target = "11.0"
    os.environ.setdefault("_PYTHON_HOST_PLATFORM", f"macosx-{target}-{machine}")


def is_msvc(compiler):
    return compiler.compiler_type == "msvc"


def prepare(compiler):
    """Puts clang-cl in the place of MSVC's cl, which has no vector types."""
    if not is_msvc(compiler):
        return
    compiler.initialize()
    search = os.environ["PATH"] + os.pathsep + getattr(compiler, "_paths", "")
    clang = shutil.which(os.environ.get("CC", "clang-cl"), path=search)
    if clang is None or "clang-cl" not in os.path.basename(clang).lower():
        raise PlatformError(
            "fastconv's kernels use GCC's and Clang's vector types, which MSVC's cl does not have. "
            "Install Clang (Visual Studio's component 'C++ Clang tools for Windows', or LLVM) and put clang-cl on PATH."
        )
    compiler.cc = clang
    compiler.add_library_dir(os.path.join(os.path.dirname(os.path.dirname(clang)), "lib"))  # libomp
    for options in (compiler.compile_options, compiler.compile_options_debug):
        options[:] = [option for option in options if option != "/GL"]


def flags_for(compiler, flags):
    if is_msvc(compiler):
        return [flag if flag.startswith("-m") else f"/clang:{flag}" for flag in flags]
    return flags


def try_build(compiler, source, compile_flags, link_flags=None):
    """Whether `source` compiles (and, with link_flags given, links)."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "probe.c")
        with open(path, "w") as file:
            file.write(source)
        # The probes are meant to fail here and there; their complaints would look like the build's.
        sys.stderr.flush()
        saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        try:
            objects = compiler.compile([path], output_dir=folder, extra_postargs=compile_flags)
            if link_flags is not None:
                compiler.link_executable(objects, "probe", output_dir=folder, extra_postargs=link_flags)
        except (CompileError, LinkError):
            return False
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            os.close(null)
    return True


def defines(compiler, macro, flags=()):
    return try_build(compiler, f"#ifndef {macro}\n#error no\n#endif\nint probe;\n", flags_for(compiler, list(flags)))


def find_openmp(compiler):
    """Compile and link flags for OpenMP, or None."""
    program = (
        "#include <omp.h>\n#ifndef _OPENMP\n#error no\n#endif\nint main(void) { return omp_get_max_threads() < 1; }\n"
    )
    if is_msvc(compiler):
        candidates = [(["-openmp"], [])]
    else:
        candidates = [(["-fopenmp"], ["-fopenmp"])]
    if sys.platform == "darwin":  # Apple's clang has the compiler's half only; the library is Homebrew's
        candidates.append((["-Xpreprocessor", "-fopenmp"], ["-lomp"]))
        for prefix in ("/opt/homebrew/opt/libomp", "/usr/local/opt/libomp"):
            candidates.append((["-Xpreprocessor", "-fopenmp", f"-I{prefix}/include"], [f"-L{prefix}/lib", "-lomp"]))
    for compile_flags, link_flags in candidates:
        if try_build(compiler, program, compile_flags, link_flags):
            return compile_flags, link_flags
    return None


class BuildLibraries(build_clib):
    """Extends the libraries by the instruction sets of the compiler's target, and OpenMP."""

    openmp_link_flags = ()

    def build_libraries(self, libraries):
        compiler = self.compiler
        prepare(compiler)
        common = flags_for(compiler, FLAGS) + ([] if is_msvc(compiler) else UNIX_FLAGS)
        if not try_build(compiler, "typedef float v4 __attribute__((vector_size(16)));\nv4 probe;\n", common):
            raise PlatformError("fastconv needs a C compiler that works and has vector types: GCC or Clang (set CC).")

        openmp = find_openmp(compiler)
        if openmp is None:
            self.warn("the compiler has no OpenMP: fastconv will run on one thread")
        openmp_flags, self.openmp_link_flags = openmp or ([], [])

        isas, have = {}, []
        for name, (architecture, flags, macro) in ISAS.items():
            if architecture is None:
                isas[name] = flags
            elif defines(compiler, architecture):
                if defines(compiler, macro, flags):
                    isas[name] = flags
                    have.append((f"FC_HAVE_{name.upper()}", "1"))
                else:
                    self.warn(f"the compiler does not know {' '.join(flags)}: no kernels for {name}")

        stamp = self.write_stamp([common, openmp, sorted(isas.items())])
        dependencies = {"": [*HEADERS, "setup.py", stamp]}
        built = [
            (
                "fastconv_core",  # first: a linker looks for its missing symbols to the right
                {"sources": CORE, "cflags": common + openmp_flags, "macros": have, "obj_deps": dependencies},
            )
        ]
        for name, flags in isas.items():
            build_info = {
                "sources": [f"csrc/isa_{name}.c"],
                "cflags": common + flags_for(compiler, flags),
                "obj_deps": dependencies,
            }
            built.append((f"fastconv_{name}", build_info))
        for _, build_info in built:
            build_info["include_dirs"] = ["csrc"]
        libraries[:] = built  # the same list that get_library_names reads
        # Side by side: the kernels of one instruction set take the better part of a minute.
        build_one = super().build_libraries
        with ThreadPoolExecutor(min(len(built), os.cpu_count() or 1)) as pool:
            list(pool.map(build_one, [[library] for library in built]))

    def write_stamp(self, content):
        """A file that changes when the flags or the compiler do, for objects to depend on."""
        self.mkpath(self.build_temp)
        path = os.path.join(self.build_temp, "fastconv-flags.txt")
        text = repr((content, getattr(self.compiler, "compiler_so", None) or getattr(self.compiler, "cc", None)))
        try:
            with open(path) as file:
                if file.read() == text:
                    return path
        except FileNotFoundError:
            pass
        with open(path, "w") as file:
            file.write(text)
        return path


class BuildExtension(build_ext):
    def run(self):
        # Also for --inplace and editable builds, which ask for the extension alone.
        self.run_command("build_clib")
        super().run()

    def build_extensions(self):
        prepare(self.compiler)
        libraries = self.get_finalized_command("build_clib")
        for extension in self.extensions:
            extension.extra_link_args += libraries.openmp_link_flags
            extension.depends.append(os.path.join(libraries.build_temp, "fastconv-flags.txt"))
            if not is_msvc(self.compiler):
                extension.extra_compile_args += ["-O2", "-fvisibility=hidden"]
        super().build_extensions()


setup(
    # The list proper is made when the compiler is known; until then it says that there is one.
    libraries=[("fastconv_core", {"sources": CORE})],
    ext_modules=[
        Extension(
            "fastconv._native",
            ["fastconv/_native.pyx"],
            include_dirs=["csrc", numpy.get_include()],
            define_macros=[
                ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
                ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION"),
            ],
            depends=[*HEADERS, *CORE, *STUBS, "setup.py"],
        )
    ],
    cmdclass={"build_clib": BuildLibraries, "build_ext": BuildExtension},
)
