"""Print the lowest versions that setup.cfg declares, one pip constraint a line."""

import configparser
import re

config = configparser.ConfigParser()
config.read("setup.cfg")
declared = "\n".join([config["options"]["install_requires"], *config["options.extras_require"].values()])
for name, version in sorted(set(re.findall(r"^([\w.-]+) *>= *([\w.]+)", declared, re.MULTILINE))):
    print(f"{name}=={version}")
