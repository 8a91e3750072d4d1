"""Package metadata, read from settings.ini so that nbdev and pip see one source."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

EXTRAS = ("data", "models", "quantum", "gpu", "scale", "bench", "lab", "docs")
extras = {name: cfg[f"{name}_requirements"].split() for name in EXTRAS}
# `dev` is everything but the heavy peers, plus the tools of the gate.
extras["dev"] = sorted({r for name in EXTRAS if name != "bench" for r in extras[name]} | set(cfg["tool_requirements"].split()))

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8") if (here / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    project_urls={"Documentation": cfg["doc_host"] + cfg["doc_baseurl"]},
    license="Apache-2.0",
    keywords=cfg["keywords"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
    ],
    packages=find_packages(include=["atomsnb", "atomsnb.*"]),
    package_data={"atomsnb": ["*.toml", "**/*.json", "**/*.toml", "**/*.safetensors", "**/*.woff2", "**/OFL.txt", "py.typed"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"],
    },
    zip_safe=False,
)
