"""The recipe of a probe: a frozen network, labelled scans, and the grid of heads to choose from."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import Field, SerializeAsAny, model_validator

from slivit.data.preprocessing import Preprocessing
from slivit.data.recipe import Data
from slivit.evaluate.recipe import Testing
from slivit.folder import METRICS, PREDICTIONS, SPLIT
from slivit.models._starts import fill_start
from slivit.models.recipe import Model
from slivit.plugins import Plugged
from slivit.recipe import Stage
from slivit.settings import Precision, Section, Seed
from slivit.targets.task import Task


class Features(Section):
    """What the heads read.

    Args:
        folder: where features are kept, of any number of networks; the folder `features` beside the results where
            empty.
        sets: which of the model's sets of features to try, such as "last1" and "last4+patches"; all where empty.
        standardise: give each feature mean 0 and standard deviation 1 over the training scans, so that the learning
            rates mean the same for every network. The papers leave the features of their networks as they are.
        batch_size: scans a batch while features are computed.
        precision: in which features are computed: "float32", "bfloat16", "float16" (GPU only), or "auto", the fastest
            that the device has.
    """

    folder: str = ""
    sets: tuple[str, ...] = ()
    standardise: bool = True
    batch_size: int = Field(default=8, ge=1)
    precision: Precision = "float32"


class Linear(Section):
    """How the linear heads are trained: SGD with momentum 0.9, the rate falling to 0 along a cosine.

    Args:
        rates: learning rates to try; the papers' 13 from 0.0001 to 0.5 where empty.
        iterations: steps.
        batch_size: scans a step.

    Source: Oquab et al. 2023, appendix B.3; Xu et al. 2025, Methods.
    """

    rates: tuple[float, ...] = ()
    iterations: int = Field(default=12_500, ge=1)
    batch_size: int = Field(default=128, ge=1)


class Knn(Section):
    """The nearest-neighbour probe.

    Args:
        run: run it too.
        neighbours: numbers of neighbours to try; 10, 20, 100 and 200 where empty.
        temperature: of the weights exp(similarity / temperature).

    Source: Caron et al. 2021, section 4.1.
    """

    run: bool = False
    neighbours: tuple[int, ...] = ()
    temperature: float = Field(default=0.07, gt=0)


class NetworkRecipe(Plugged):
    """A frozen network.

    Args:
        checkpoint: a run or checkpoint folder; empty where `model` names the network.
        model: the network by name, with `weights` to load into its backbone.
        random_init: the network at random, by `seed`: what the others have to beat.
        seed: of a network at random, and of all else that is random.
        preprocessing: how scans are brought into the network's input; where a key is absent, as the checkpoint says.
    """

    checkpoint: str = ""
    model: Model | None = None
    random_init: bool = False
    seed: Seed = 0
    preprocessing: Preprocessing = Preprocessing()

    @model_validator(mode="before")
    @classmethod
    def _published(cls, values: Any) -> Any:
        return fill_start(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _one_network(self) -> Self:
        if bool(self.checkpoint) == (self.model is not None):
            raise ValueError("name the network once: a checkpoint, or model.name (--model)")
        if self.model is None:
            return self
        loads = bool(self.model.weights or self.model.args.get("pretrained"))
        if loads and self.random_init:
            raise ValueError("model.weights and random_init exclude each other")
        if not loads and not self.random_init:
            raise ValueError(
                f"{self.model.name} has no weights: give model.weights (--weights FILE), or random_init = true "
                "(--random-init)"
            )
        return self


class ProbeRecipe(NetworkRecipe):
    """What the features of a frozen network are worth for a task; the network's fields are those of `NetworkRecipe`.

    Args:
        out: the folder of results.
        data: the labelled scans.
        task: what to predict; the data set's own, or the checkpoint's, where absent.
        features: what the heads read.
        linear: how linear heads are trained.
        knn: the nearest-neighbour probe.
        choose_by: the metric that chooses on validation rows; "roc_auc", or "r2" for regression, where empty.
        device: "auto", "cpu", "cuda", "mps".
        testing: how predictions are measured.
        page: draw the page of results, `report/index.html`.
    """

    stage: ClassVar[Stage] = "probe"
    runner: ClassVar[str] = "slivit.probing.command:run"
    results: ClassVar[tuple[str, ...]] = (SPLIT, PREDICTIONS, METRICS)

    out: str = Field(min_length=1)
    data: Data
    task: SerializeAsAny[Task] | None = None
    features: Features = Features()
    linear: Linear = Linear()
    knn: Knn = Knn()
    choose_by: str = ""
    device: str = "auto"
    testing: Testing = Testing()
    page: bool = True
