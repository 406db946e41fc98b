"""sprites_lab: diffusion on 16x16 sprites, step by step.

A noise predictor is anything you can call as predict_noise(x_t, t). A schedule says how much noise there is; a sampler
walks from noise to picture by asking a predictor; training makes a predictor good.
"""

import os

# Before torch starts its threads: let them wait for each other a moment (some ten microseconds) and then sleep. When they
# spin on, two programs on the same cores slow each other down ten times; when they sleep at once, small layers are slow.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

from sprites_lab.errors import LabError
from sprites_lab.predictors import clamped, conditioned, guided
from sprites_lab.samplers import Step, ddim, ddpm, final
from sprites_lab.schedule import NoiseSchedule, cosine_schedule, linear_schedule
from sprites_lab.solvers import dpm_solver, ipndm, unipc
from sprites_lab.start import FittedStart
from sprites_lab.training import Progress, TrainingState, noise_loss, train
from sprites_lab.unet import ContextUnet

__version__ = "0.1.0"
__all__ = [
    "ContextUnet", "FittedStart", "LabError", "NoiseSchedule", "Progress", "Step", "TrainingState", "clamped", "conditioned",
    "cosine_schedule", "ddim", "ddpm", "dpm_solver", "final", "guided", "ipndm", "linear_schedule", "noise_loss", "train", "unipc",
]
