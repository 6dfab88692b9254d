"""The modules of the package import each other in one direction."""

from graphlib import TopologicalSorter

import grimp


def test_no_modules_import_each_other_in_a_circle():
    graph = grimp.build_graph("medrestore_monai", cache_dir=None)  # imports for types alone count, too
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 100
    del imports["medrestore_monai"]  # the face: it imports a part when that is used
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle
