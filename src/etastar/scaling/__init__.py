"""Room 6: power laws of η* and λ1 in width and depth, their intervals, and held-out prediction.

`CellTable.from_rows` checks what a study measured; `fit_power_law` fits one group of it,
`compare_forms` judges several laws by cells they have not seen, `find_region` says where the law
holds, and `fit_process` predicts an unseen network; the intervals and tests of a law allow for lack
of fit that widths and depths share (`two_way`). `fit_slope` and `fit_cell_slope`
are for η* against λ1. A new law is an entry in `forms.FORMS`.
"""

from etastar.scaling.bend import Bend as Bend
from etastar.scaling.cells import RESPONSES as RESPONSES
from etastar.scaling.cells import STATUSES as STATUSES
from etastar.scaling.cells import CellTable as CellTable
from etastar.scaling.cells import Response as Response
from etastar.scaling.coefficients import Coefficient as Coefficient
from etastar.scaling.comparison import ComparedForm as ComparedForm
from etastar.scaling.comparison import Comparison as Comparison
from etastar.scaling.comparison import HeldOut as HeldOut
from etastar.scaling.comparison import compare_forms as compare_forms
from etastar.scaling.comparison import cross_validate as cross_validate
from etastar.scaling.comparison import extrapolate as extrapolate
from etastar.scaling.domain import Domain as Domain
from etastar.scaling.estimates import CellEstimates as CellEstimates
from etastar.scaling.estimates import Usage as Usage
from etastar.scaling.estimates import estimate_cells as estimate_cells
from etastar.scaling.forms import BASELINES as BASELINES
from etastar.scaling.forms import FORMS as FORMS
from etastar.scaling.forms import Form as Form
from etastar.scaling.laws import Laws as Laws
from etastar.scaling.laws import fit_laws as fit_laws
from etastar.scaling.power_law import PowerLawFit as PowerLawFit
from etastar.scaling.power_law import fit_power_law as fit_power_law
from etastar.scaling.power_law import residual_map as residual_map
from etastar.scaling.prediction import Prediction as Prediction
from etastar.scaling.process import Kernel as Kernel
from etastar.scaling.process import Process as Process
from etastar.scaling.process import fit_process as fit_process
from etastar.scaling.region import CutoffRow as CutoffRow
from etastar.scaling.region import Region as Region
from etastar.scaling.region import find_region as find_region
from etastar.scaling.region import find_regions as find_regions
from etastar.scaling.slope import SlopeFit as SlopeFit
from etastar.scaling.slope import fit_cell_slope as fit_cell_slope
from etastar.scaling.slope import fit_slope as fit_slope
from etastar.scaling.two_way import TwoWay as TwoWay
from etastar.scaling.two_way import two_way as two_way
