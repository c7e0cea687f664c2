"""Why a model predicts what it predicts: which slices of a scan mattered, and where in them.

The folder is not called `explain`, because a package of that name would stand in the way of `slivit.explain`.
"""

from slivit.explanation.explaining import explain as explain
from slivit.explanation.explaining import explain_seen as explain_seen
from slivit.explanation.explaining import seen_by as seen_by
from slivit.explanation.occlusion import FILLS as FILLS
from slivit.explanation.occlusion import occlude as occlude
from slivit.explanation.predicting import ExplainError as ExplainError
from slivit.explanation.predicting import engine_of as engine_of
from slivit.explanation.predicting import number_of as number_of
from slivit.explanation.predicting import target_or as target_or
from slivit.explanation.result import METHODS as METHODS
from slivit.explanation.result import TITLES as TITLES
from slivit.explanation.result import Attribution as Attribution
from slivit.explanation.result import Explanation as Explanation
from slivit.explanation.scan import SeenScan as SeenScan
from slivit.explanation.scan import see_scan as see_scan
