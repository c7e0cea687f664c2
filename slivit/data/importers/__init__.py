"""From a folder as it was downloaded to a manifest: one importer for each public data set of the papers.

>>> make_manifest("echonet", "EchoNet-Dynamic", "echonet.csv")  # doctest: +SKIP
"""

from slivit.data.importers.make import Imported, make_manifest
from slivit.data.importers.medmnist import medmnist_manifest
from slivit.data.importers.registry import ImporterSpec, importer, importer_spec, list_importers

__all__ = [
    "Imported",
    "ImporterSpec",
    "importer",
    "importer_spec",
    "list_importers",
    "make_manifest",
    "medmnist_manifest",
]
