"""The compiled parts; all else is in pyproject.toml. Without a C compiler they are left out."""

from __future__ import annotations

from Cython.Build import cythonize
from setuptools import Extension, setup

extensions = cythonize(
    [
        Extension("pynode.dist._ticker", ["pynode/dist/_ticker.pyx"]),
        Extension("pynode.etf._compiled", ["pynode/etf/_compiled.pyx"]),
        Extension("pynode.identifiers._compiled", ["pynode/identifiers/_compiled.pyx"]),
        Extension("pynode.protocol._compiled", ["pynode/protocol/_compiled.pyx"]),
    ],
    build_dir="build",
)
for extension in extensions:
    extension.optional = True

setup(ext_modules=extensions)
