"""A contract for import-linter: a package may import what is listed, and nothing else from outside."""

import sys

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class OnlyImportsContract(Contract):
    """Fails for every import of the package that is neither its own, the standard library's, nor allowed."""

    package = fields.StringField()
    allowed = fields.SetField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        del verbose
        package = str(self.package)
        strangers = sorted(
            (module, imported)
            for module in {package, *graph.find_descendants(package)}
            for imported in graph.find_modules_directly_imported_by(module)
            if not self._may_import(imported)
        )
        return ContractCheck(kept=not strangers, metadata={"strangers": strangers})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for module, imported in check.metadata["strangers"]:
            output.print_error(f"{module} imports {imported}, which is not in its list.")

    def _may_import(self, module: str) -> bool:
        top = module.partition(".")[0]
        allowed = {str(name) for name in self.allowed}  # type: ignore[attr-defined]
        return top == str(self.package) or top in allowed or top in sys.stdlib_module_names
