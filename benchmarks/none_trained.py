r"""How much do seeds that train nowhere matter to the laws? Each law with and without their cells.

    python benchmarks/none_trained.py gaussians mnist-cross-entropy mnist-mse \
        cifar10-cross-entropy cifar10-mse

A law takes a cell's median over the seeds that train at some rate, and leaves the cell out where
these are less than half; `etastar.measure` counts a seed that trains nowhere as below every rate.
Here the form `separate` is fitted to all cells that are used, and to those that lost no seed. The
stores of the studies must lie beside their files in `studies/`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from etastar.errors import ConfigError
from etastar.scaling import fit_power_law
from etastar.scaling.estimates import estimate_cells
from etastar.study.cell_rows import cell_table
from etastar.study.specification import Study
from etastar.study.store import Store

STUDIES = Path(__file__).parents[1] / "studies"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("studies", nargs="+", metavar="STUDY")
    for name in parser.parse_args().studies:
        study = Study.from_file(STUDIES / f"{name}.toml")
        with Store(study.default_store) as store:
            cells = cell_table(study, store)
        for labels, group in cells.groups():
            estimates = estimate_cells(group)
            lost = estimates.none_trained > 0
            if not (lost & estimates.used).any():
                continue
            counts = f"{(lost & estimates.used).sum()} of {estimates.used.sum()} cells lost seeds"
            print(f"{name} {labels['loss']} κ={labels['input_lr_ratio']:g}: {counts}")
            for title, table in (("all", group), ("whole cells", group.subset(~lost))):
                try:
                    fit = fit_power_law(table, form="separate", n_boot=0)
                except ConfigError as error:
                    print(f"  {title}: {error}")
                    continue
                exponents = (
                    f"{c.name} {c.value:.2f} [{c.low:.2f}, {c.high:.2f}]"
                    for c in fit.coefficients[1:]
                )
                print(f"  {title}: {', '.join(exponents)}")


if __name__ == "__main__":
    main()
