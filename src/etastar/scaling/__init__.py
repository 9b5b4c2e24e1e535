"""Room 6: power laws of η* and λ1 in width and depth, their intervals, and held-out prediction.

`CellTable.from_rows` checks what a study measured; `fit_power_law` fits one group of it,
`compare_forms` judges several laws by cells they have not seen, `find_region` says where the law
holds, and `fit_laws(...).predict` answers for an unseen network. `fit_slope` and `fit_cell_slope`
are for η* against λ1. A new law is an entry in `forms.FORMS`.
"""

from etastar.scaling.bend import Bend
from etastar.scaling.cells import RESPONSES, STATUSES, CellTable, Response
from etastar.scaling.coefficients import Coefficient
from etastar.scaling.comparison import (
    ComparedForm,
    Comparison,
    HeldOut,
    compare_forms,
    cross_validate,
    extrapolate,
)
from etastar.scaling.domain import Domain
from etastar.scaling.estimates import CellEstimates, estimate_cells
from etastar.scaling.forms import BASELINES, FORMS, Form
from etastar.scaling.laws import Laws, fit_laws
from etastar.scaling.power_law import PowerLawFit, fit_power_law
from etastar.scaling.prediction import Prediction
from etastar.scaling.region import CutoffRow, Region, find_region, find_regions
from etastar.scaling.residuals import ResidualMap, residual_map
from etastar.scaling.slope import Slope, SlopeFit, fit_cell_slope, fit_slope
from etastar.scaling.usage import Usage

__all__ = [
    "BASELINES",
    "FORMS",
    "RESPONSES",
    "STATUSES",
    "Bend",
    "CellEstimates",
    "CellTable",
    "Coefficient",
    "ComparedForm",
    "Comparison",
    "CutoffRow",
    "Domain",
    "Form",
    "HeldOut",
    "Laws",
    "PowerLawFit",
    "Prediction",
    "Region",
    "ResidualMap",
    "Response",
    "Slope",
    "SlopeFit",
    "Usage",
    "compare_forms",
    "cross_validate",
    "estimate_cells",
    "extrapolate",
    "find_region",
    "find_regions",
    "fit_cell_slope",
    "fit_laws",
    "fit_power_law",
    "fit_slope",
    "residual_map",
]
