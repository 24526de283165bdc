"""A model that was adapted to drives serves, warms up, and keeps generations like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from moving_scenes import moving_square

from ditta_core.adaptation.config import AdaptationConfig
from ditta_core.adaptation.job import AdaptationJob
from ditta_core.domain.warmup_job import run_job
from ditta_core.inference.temporal_branch import TemporalSegmenter
from ditta_core.segmentation.adapted import AdaptedModel, save_adapted, weights_fingerprint
from ditta_core.segmentation.registry import load_model
from ditta_core.segmentation.source import ModelSource
from ditta_core.stream.generation_file import load_generation, model_fingerprint, save_generation
from ditta_core.stream.generations import Generation

QUICK = AdaptationConfig(self_training_steps=0, guarded=False, passes=1, views=0)


@pytest.mark.slow
def test_the_warmup_runs_on_top_and_its_generation_is_kept(tmp_path: Path) -> None:
    base = load_model(ModelSource("camvid"))
    bias = "bu_dec_l4.merge_layer.3.bias"
    tensors = {bias: base.state_dict()[bias].numpy() + np.float32(0.25)}
    file = tmp_path / "adapted.safetensors"
    save_adapted(file, AdaptedModel("camvid", weights_fingerprint(base), tensors))
    source = ModelSource(f"adapted:{file}")

    job = AdaptationJob(moving_square(4, (64, 96)).clip, (64, 96), source, adaptation=QUICK)
    result = run_job(job)
    assert result.report.succeeded and result.state is not None, result.report.reason
    adapted = TemporalSegmenter(load_model(source))
    warm = result.state.apply(adapted)
    assert bias in {name.removeprefix("model.") for name in result.state.tensors}
    # From the adapted weights, not from those of the base: a warm-up moves a bias by much less than a quarter.
    torch.testing.assert_close(warm.model.output_bias, adapted.model.output_bias, atol=0.2, rtol=0)

    path = tmp_path / "generation-0001.safetensors"
    save_generation(path, Generation(1, result.state, result.report), model_fingerprint(adapted))
    assert load_generation(path, model_fingerprint(TemporalSegmenter(load_model(source)))).number == 1
    assert model_fingerprint(adapted) != model_fingerprint(TemporalSegmenter(base))
