"""Prints the lowest version that pyproject.toml declares for each dependency, including those of the named extras.

    pip install $(python .ci/lowest.py test)

installs them, with the newest versions of their own dependencies.
"""

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

REQUIREMENT = re.compile(r"(?P<name>[\w.-]+(\[[\w,-]+\])?)\s*>=\s*(?P<lowest>[\w.]+)(\s*,[^;]*)?(;.*)?")


def main() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    requirements = list(project["dependencies"])
    for extra in sys.argv[1:]:
        requirements += project["optional-dependencies"][extra]
    for requirement in requirements:
        match = REQUIREMENT.fullmatch(requirement)
        if not match:
            sys.exit(f"pyproject.toml: expected a lowest version in {requirement!r}: name>=version")
        print(f"{match['name']}=={match['lowest']}")


if __name__ == "__main__":
    main()
