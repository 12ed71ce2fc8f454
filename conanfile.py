# SPDX-FileCopyrightText: The Oriel authors
# SPDX-License-Identifier: Apache-2.0
"""Conan 2 recipe: the library; with -o 'oriel/*:tier=True' its tiers (memory, disk, Redis), with
-o 'oriel/*:program=True' those and the program `oriel` too.

    conan create . --no-remote -pr tests/package/conan/profile -s compiler.cppstd=20

To build, the library needs the header of xxHash, its tiers OpenSSL and liburing too. These and the program's packages come
from a remote, or from the system: then the profile names them under [platform_requires], as tests/package/conan/profile does.
"""

from conan import ConanFile
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.build import check_min_cppstd


class OrielConan(ConanFile):
    name = "oriel"
    version = "0.1.0"
    license = "Apache-2.0"
    description = "LLM-inference building blocks for models that mix sliding-window and full attention"
    topics = ("llm", "inference", "kv-cache", "attention")
    package_type = "library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"shared": [True, False], "fPIC": [True, False], "tier": [True, False],
               "program": [True, False]}
    default_options = {"shared": False, "fPIC": True, "tier": False, "program": False}
    exports_sources = ("CMakeLists.txt", "LICENSE", "include/*", "src/*", "kernels/*", "examples/*",
                       "tests/conformance/*")
    no_copy_source = True
    test_package_folder = "tests/package/conan"

    def requirements(self):
        self.requires("xxhash/0.8.1", headers=True, libs=False)
        if self.options.tier or self.options.program:
            self.requires("openssl/3.0.15")
            self.requires("liburing/2.3")
        if self.options.program:
            for reference in ("fmt/9.1.0", "simdjson/3.0.1", "nlohmann_json/3.11.2", "cli11/2.1.2",
                              "pcre2/10.42", "utf8proc/2.8.0", "zstd/1.5.5"):
                self.requires(reference)

    def validate(self):
        check_min_cppstd(self, 20)

    def layout(self):
        cmake_layout(self)

    def generate(self):
        CMakeDeps(self).generate()
        toolchain = CMakeToolchain(self)
        toolchain.cache_variables.update({
            "ORIEL_TESTS": False,
            "ORIEL_TIER": bool(self.options.tier or self.options.program),
            "ORIEL_EXAMPLES": bool(self.options.program),
            "ORIEL_INSTALL": True,
            "ORIEL_ONEDNN": "OFF",
        })
        toolchain.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        CMake(self).install()

    def package_info(self):
        # Our own CMake files are the ones to find: Conan adds no second description.
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs = ["lib/cmake/oriel"]
        self.cpp_info.libs = ["oriel"]
        if self.options.tier or self.options.program:
            self.cpp_info.libs.insert(0, "oriel_tier")
        if self.settings.os == "Linux":
            self.cpp_info.system_libs = ["pthread"]
