"""What an installation without extras brings along, by the metadata of the installed packages."""

import re
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_COPYLEFT = re.compile(r"(?<!L)(?<!Lesser )(GPL|General Public License|Affero)")
_CHOICE = re.compile(r"\bOR\b")


def installed_by(requirement, found=None):
    """The distributions that a requirement brings along here, by name, with the extras that it asks for alone."""
    found = {} if found is None else found
    name = canonicalize_name(requirement.name)
    try:
        found[name] = distribution(name)
    except PackageNotFoundError:
        return found
    for text in found[name].requires or ():
        needed = Requirement(text)
        markers = [{"extra": extra} for extra in ("", *requirement.extras)]
        wanted = needed.marker is None or any(map(needed.marker.evaluate, markers))
        if wanted and canonicalize_name(needed.name) not in found:
            installed_by(needed, found)
    return found


def licence(package):
    """All that the metadata says of a licence: the expression, else the classifiers and the name."""
    metadata = package.metadata
    if expression := metadata.get("License-Expression"):
        return expression
    classifiers = [c for c in metadata.get_all("Classifier") or () if c.startswith("License ::")]
    return " ; ".join([*classifiers, (metadata.get("License") or "").split("\n")[0]])


def is_copyleft(text):
    return bool(_COPYLEFT.search(text)) and not _CHOICE.search(text)


def test_the_check_tells_licences_apart():
    assert is_copyleft("GPL-3.0-or-later")
    assert is_copyleft("License :: OSI Approved :: GNU General Public License v3 (GPLv3) ; ")
    assert is_copyleft("AGPL-3.0-only")
    assert not is_copyleft("LGPL-2.1-or-later")
    assert not is_copyleft("MIT OR GPL-2.0-only")
    assert not is_copyleft("BSD-3-Clause")


def test_the_base_brings_no_gpl():
    packages = installed_by(Requirement("slivit"))
    assert {"torch", "pydicom", "python-gdcm", "spacy", "wandb"} <= set(packages)
    assert "pylibjpeg-libjpeg" not in packages
    assert {name: licence(p) for name, p in packages.items() if is_copyleft(licence(p))} == {}


def test_the_gpl_decoder_is_an_extra():
    extra = installed_by(Requirement("slivit[jpeg]"))
    assert is_copyleft(licence(extra["pylibjpeg-libjpeg"]))
