"""Contract type `only` for the import linter: the named modules may be imported by nobody else.

It differs from the linter's own `protected` type in one point: a module that does not exist yet
breaks nothing, but is named in a warning, so that a misspelt law is seen. Direct imports count;
who may reach whom along a chain is the business of the layers contract.
"""

from __future__ import annotations

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class Only(Contract):
    """Hold that `modules` are imported by `importers` and by themselves only.

    Options: modules, importers: full names, own or third-party.
        as_packages: whether a name stands for all below it too (default: true).
    """

    type_name = "only"

    # The linter replaces each field by its parsed value before `check` runs.
    modules: list[str] = fields.ListField(subfield=fields.StringField())  # type: ignore[assignment]
    importers: list[str] = fields.ListField(subfield=fields.StringField())  # type: ignore[assignment]
    as_packages: bool = fields.BooleanField(required=False, default=True)  # type: ignore[assignment]

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        allowed = set[str]().union(*(self._family(graph, name) for name in self.importers))
        broken: list[str] = []
        for name in self.modules:
            family = self._family(graph, name)
            for imported in sorted(family):
                for importer in sorted(graph.find_modules_that_directly_import(imported) - allowed - family):
                    details = graph.get_import_details(importer=importer, imported=imported)
                    lines = ", ".join(str(detail["line_number"]) for detail in details)
                    broken.append(f"{importer} -> {imported} (l.{lines})")
        return ContractCheck(kept=not broken, warnings=self._missing(graph), metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        allowed = ", ".join(self.importers) or "nobody"
        output.print_error(f"May import {', '.join(self.modules)}: {allowed}. Found beside that:", bold=False)
        output.new_line()
        for link in check.metadata["broken"]:
            output.print_error(f"- {link}", bold=False)
        output.new_line()

    def _family(self, graph: ImportGraph, name: str) -> set[str]:
        """Return the module and, as a package, all below it; nothing if it is not there."""
        if name not in graph.modules:
            return set()
        if not self.as_packages or graph.is_module_squashed(name):
            return {name}
        return {name, *graph.find_descendants(name)}

    def _missing(self, graph: ImportGraph) -> list[str]:
        """Return one warning for each of our own modules that the law names and the code lacks."""
        roots = {module for module in graph.modules if "." not in module and not graph.is_module_squashed(module)}
        own = [name for name in (*self.modules, *self.importers) if name.partition(".")[0] in roots]
        return [f"{name} does not exist (yet)" for name in own if name not in graph.modules]
