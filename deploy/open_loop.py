"""What the policy would have done at moments of a recorded episode, beside what was done."""

from __future__ import annotations

from typing import Any

from data_pipeline.sampling import make_sample
from data_pipeline.schema.types import Episode
from deploy.engine import InferenceEngine


def open_loop(engine: InferenceEngine, episode: Episode, every_steps: int) -> dict[str, Any]:
    """Chunks predicted every so many steps, and the recorded actions, in native units and plain types."""
    robot = engine.robot
    starts = list(range(0, episode.num_steps, every_steps))
    samples = [make_sample(episode, t, horizon=engine.horizon, image_history=engine.image_history) for t in starts]
    chunks = engine.predict_batch([sample.observation for sample in samples], starts)
    return {
        "names": list(robot.native_names),
        "rate_hz": episode.rate_hz,
        "demonstration": robot.from_unified(episode.actions).round(5).tolist(),
        "chunks": [
            {
                "start": start,
                "actions": robot.from_unified(chunk.actions)[: episode.num_steps - start].round(5).tolist(),
            }
            for start, chunk in zip(starts, chunks, strict=True)
        ],
    }
