"""From an observation to an action chunk: the one place where the network runs for a robot.

On a GPU everything has a fixed shape: the vision encoder, the projection of the condition to keys and values, and
the whole denoising loop are CUDA graphs, captured in `warm_up` before the first request. On a CPU, and for batch
sizes that were not announced, the same code runs eagerly. Serves one robot, or many simulated ones side by side.

Asked with a `Prefix`, it samples what goes on from actions that are already decided (real-time chunking). A checkpoint
that was aligned may act by the best of several chunks, by guidance or by a student (`rdt/alignment/acting.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data_pipeline.schema.embodiment import Embodiment
from data_pipeline.schema.layout import NUM_SLOTS
from data_pipeline.schema.registry import unknown_name
from data_pipeline.schema.types import ActionChunk, Observation
from deploy.capture import LANGUAGE_BUCKETS, StaticSampler
from deploy.picture_memory import PictureMemory
from deploy.prefix import Prefix, align
from deploy.quantization import GATE, GateReport, Quantization, quantize_weights
from deploy.stage_times import StageTimes
from rdt.alignment.acting import FOLDER as HEAD
from rdt.alignment.acting import Acting, load_acting
from rdt.batch import Condition, to_device
from rdt.diffusion.guidance import Guidance, Jacobian, prefix_weights
from rdt.model.inputs import check_actions, check_condition
from rdt.model.policy import RDTPolicy
from rdt.random import SampleGenerator
from rdt.train.checkpoint import Checkpoint, load_checkpoint
from rdt.visuomotor import VisuomotorPolicy

_KEYS = 1 << 54  # candidates of one observation draw from keys so far apart

LARGE = 50_000_000
"""Parameters from which on a policy runs in bfloat16 on a GPU unless told otherwise."""


class InferenceEngine:
    """Holds a policy on a device and turns observations into stamped chunks.

    A bare `RDTPolicy` reads tokens only: it can `sample`, but to `predict` takes a checkpoint, which knows the
    encoders and the robot.
    """

    def __init__(
        self,
        policy_or_checkpoint: RDTPolicy | Checkpoint | str | Path,
        device: str | torch.device = "cpu",
        seed: int = 0,
        *,
        dtype: torch.dtype | None = None,
        capture: bool | None = None,
        compile_backend: str | None = None,
        quantization: Quantization | None = None,
        gate: float = GATE,
        guided: bool = False,
        jacobian: Jacobian = "network",
    ) -> None:
        """Take a policy, a loaded checkpoint or the path of one, and make it ready for the first request.

        `seed` fixes the sampling noise of `predict`. `dtype` is the network's: by default bfloat16 for a large
        network on a GPU, else that of the weights. `capture` (default: on a GPU) makes `warm_up` record CUDA graphs,
        here for batch 1. `compile_backend` ("inductor") puts the blocks through `torch.compile`: half a minute.
        `quantization` stores the blocks in eight bits; raises `QualityError` where actions change more than `gate`.
        `guided` is for requests with a prefix: `warm_up` prepares them too, and the weights, the engine's own from
        then on, ask for no gradient; without it they run eagerly. `jacobian` is that of the guidance: "network" as
        published, or "identity" without a pass backward (`rdt/diffusion/guidance.py`).
        """
        self.device = torch.empty(0, device=device).device  # "cuda" has a number, as its tensors have
        self._noise = SampleGenerator(seed)
        self._num_calls = 0
        self._checkpoint: Checkpoint | None = None
        if isinstance(policy_or_checkpoint, RDTPolicy):
            self.policy = policy_or_checkpoint
        else:
            if not isinstance(policy_or_checkpoint, Checkpoint):
                policy_or_checkpoint = load_checkpoint(policy_or_checkpoint)
            self._checkpoint = policy_or_checkpoint
            self.policy = policy_or_checkpoint.model.to(self.device).eval().policy
        if dtype is None and self.device.type == "cuda" and _num_parameters(self.policy) >= LARGE:
            dtype = torch.bfloat16
        self.policy.to(self.device, dtype).eval()
        if jacobian not in get_args(Jacobian):
            raise ValueError(unknown_name("jacobian", jacobian, get_args(Jacobian)))
        if guided:
            _ = self.policy.solver_table  # raises for a sampler that cannot be guided
            self.policy.requires_grad_(False)  # the backward pass is for the actions alone
        self._guided, self._jacobian = guided, jacobian
        self._acting = self._open_acting()
        self._capture = self.device.type == "cuda" if capture is None else capture
        if self._capture and self.device.type != "cuda":
            raise ValueError(f"CUDA graphs were asked for on device {str(self.device)!r}: leave `capture` out")
        self._times = StageTimes(self.device)
        self._samplers: dict[int, StaticSampler] = {}
        self._pictures = PictureMemory(self.model.condition, self.device) if self._checkpoint else None
        self.gate_report: GateReport | None = None
        if compile_backend is not None:
            for block in self.policy.model.blocks:
                block.compile(backend=compile_backend, dynamic=False)
        if quantization is not None:
            self.gate_report = quantize_weights(self.policy, quantization, self._gate_chunks, gate)
        if self._capture:
            self.warm_up()

    @property
    def model(self) -> VisuomotorPolicy:
        """Encoders and policy."""
        return self._loaded().model

    @property
    def robot(self) -> Embodiment:
        """The robot that the policy was trained for."""
        return self._loaded().robot

    @property
    def horizon(self) -> int:
        """Actions in one chunk."""
        return self.policy.config.pred_horizon

    @property
    def cameras(self) -> tuple[str, ...]:
        """Camera roles that the policy looks at and the robot has."""
        return tuple(role for role in self.model.condition.config.cameras if role in self.robot.cameras)

    @property
    def image_history(self) -> int:
        """Frames per camera that the policy looks at."""
        return self.model.condition.config.image_history

    @torch.no_grad()
    def warm_up(self, batch_sizes: Iterable[int] = (1,), language_buckets: Sequence[int] = LANGUAGE_BUCKETS) -> None:
        """Make the first request as fast as the hundredth, for these batch sizes and language lengths.

        Allocates their buffers and, on a GPU, captures their graphs: seconds. Other sizes run eagerly.
        """
        for batch in batch_sizes:
            self._samplers[batch] = StaticSampler(
                self.policy,
                batch,
                language_buckets,
                capture=self._capture,
                guided=self._jacobian if self._guided else None,
                candidates=self._candidates,
            )
        if self._pictures is not None:
            if self._capture:
                self._pictures.capture({len(self.cameras), len(self.cameras) * self.image_history} - {0})
            num_calls = self._num_calls
            self.predict(self.example_observation())
            self._num_calls = num_calls
        self._times.clear()

    def sampler(self, batch: int) -> StaticSampler:
        """What `warm_up` made for an announced batch size, for measurements."""
        return self._samplers[batch]

    def forget_timings(self) -> None:
        """Start the percentiles of `timings` anew."""
        self._times.clear()

    def timings(self) -> Mapping[str, Mapping[str, float]]:
        """Milliseconds of the latest `predict` calls: decode, encode, project, denoise, copy, total -> p50, p99."""
        return self._times.summary()

    def predict(self, observation: Observation, prefix: Prefix | None = None) -> ActionChunk:
        """One observation -> one chunk, from fresh noise; frames of the call before are not encoded again.

        With a `prefix` the chunk goes on from its actions.
        """
        model, memory = self.model, self._pictures
        assert memory is not None
        self._num_calls += 1
        with torch.no_grad():
            self._times.start()
            batch = to_device(model.condition.collate([observation], resize_pictures=False), self.device)
            pictures = memory.prepare(observation)
            self._times.mark("decode")
            condition = model.condition(batch, memory.features(pictures))
            guidance = self._guidance([observation], [prefix], condition)
            noise = self.draw_noise([self._num_calls])
            self._times.mark("encode")
            actions = self.act(condition, noise, guidance)
            actions = model.condition.unscale_actions(actions, condition.action_mask).cpu()
            self._times.mark("copy")
            self._times.finish()
        return self._chunk(observation, actions[0].float().numpy())

    def predict_batch(
        self,
        observations: Sequence[Observation],
        noise_keys: Sequence[int],
        prefixes: Sequence[Prefix | None] | None = None,
    ) -> list[ActionChunk]:
        """Chunks of independent observations in one pass; equal keys draw equal noise, whatever the batch."""
        model = self.model
        with torch.no_grad():
            condition = model.condition(model.observe(observations))
            guidance = self._guidance(observations, prefixes or [None] * len(observations), condition)
            actions = self.act(condition, self.draw_noise(noise_keys), guidance)
            actions = model.condition.unscale_actions(actions, condition.action_mask)
            rows = actions.float().cpu().numpy()
        return [self._chunk(observation, row) for observation, row in zip(observations, rows, strict=True)]

    def sample(
        self,
        condition: Condition,
        noise: Float[Tensor, "batch horizon slot"] | None = None,
        guidance: Guidance | None = None,
    ) -> Float[Tensor, "batch horizon slot"]:
        """The denoising loop alone, in the network's scaled space; equals `RDTPolicy.predict_action` unguided.

        Raises `ValueError` for tokens or noise that do not fit the network (`rdt/model/inputs.py`).
        """
        with torch.no_grad():
            condition = to_device(condition, self.device)
            check_condition(self.policy.config, self.device, **vars(condition))
            if noise is None:
                shape = (len(condition.state_tokens), self.horizon, self.policy.config.action_dim)
                noise = torch.randn(shape, device=self.device)
                if self._checkpoint:
                    noise = self.model.place_noise(noise, condition.action_mask)
            noise = noise.to(self.device)
            check_actions(self.policy.config, self.device, len(condition.state_tokens), noise=noise)
            return self._sample(condition, noise, guidance).clone()

    def example_observation(self) -> Observation:
        """A valid observation of the policy's robot: all joints at 0, all cameras present."""
        model, robot = self.model, self.robot
        size = model.condition.vision.image_size
        rng = np.random.default_rng(0)
        shape = (self.image_history, size, size, 3)
        return Observation(
            state=np.zeros(NUM_SLOTS, dtype=np.float32),
            state_mask=robot.mask,
            images={role: rng.integers(0, 256, shape, dtype=np.uint8) for role in self.cameras},
            image_masks={role: np.ones(self.image_history, dtype=bool) for role in self.cameras},
            instruction="",
            control_hz=robot.rate_hz,
            stamp_ns=0,
        )

    def act(
        self,
        condition: Condition,
        noise: Float[Tensor, "batch*candidate horizon slot"],
        guidance: Guidance | None = None,
    ) -> Float[Tensor, "batch horizon slot"]:
        """Actions of a checkpoint: the sampler's, or what its head makes of them."""
        mask = condition.action_mask.repeat_interleave(self._candidates, dim=0)
        noise = self.model.place_noise(noise, mask)
        if self._acting is None:
            return self._sample(condition, noise, guidance)
        if guidance is not None:
            raise ValueError(f"a policy that acts by {self._acting.config.kind!r} has no real-time chunking")
        return self._acting.sample(self.policy, condition, noise, self._sample)

    def _sample(
        self,
        condition: Condition,
        noise: Float[Tensor, "batch*candidate horizon slot"],
        guidance: Guidance | None = None,
    ) -> Float[Tensor, "batch*candidate horizon slot"]:
        """Actions, which the next call may overwrite; captured where this size was announced."""
        batch = len(condition.state_tokens)
        candidates = len(noise) // batch
        sampler = self._samplers.get(batch)
        announced = sampler is not None and sampler.candidates == candidates
        if sampler is not None and announced and sampler.serves(condition.lang_tokens.shape[1], guidance):
            sampler.project(condition)
            self._times.mark("project")
            actions = sampler.denoise(noise, guidance)
        else:
            encoded = self.policy.encode_condition(**vars(condition))
            if candidates > 1:
                encoded = encoded.repeated(candidates)
            self._times.mark("project")
            actions = self.policy.sample(encoded, noise.float(), guidance)
        self._times.mark("denoise")
        return actions

    def _guidance(
        self, observations: Sequence[Observation], prefixes: Sequence[Prefix | None], condition: Condition
    ) -> Guidance | None:
        """Prefixes on the time grids of the chunks to come, scaled; a row without one weighs nothing."""
        if all(prefix is None for prefix in prefixes):
            return None
        target = np.zeros((len(prefixes), self.horizon, NUM_SLOTS), dtype=np.float32)
        weights = np.zeros_like(target)
        for i, (observation, prefix) in enumerate(zip(observations, prefixes, strict=True)):
            if prefix is not None:
                start_ns = self._start_ns(observation)
                target[i], known = align(prefix.chunk, start_ns, observation.control_hz, self.horizon)
                execute_steps = prefix.execute_steps(start_ns, observation.control_hz)
                rows = prefix_weights(self.horizon, prefix.delay_steps, execute_steps).numpy()
                weights[i] = np.outer(rows * known, prefix.chunk.mask)
        scaled = self.model.condition.scale_actions(torch.from_numpy(target).to(self.device), condition.action_mask)
        return Guidance(scaled, torch.from_numpy(weights).to(self.device), jacobian=self._jacobian)

    @property
    def _candidates(self) -> int:
        """Chunks that are drawn of one observation."""
        return self._acting.num_candidates if self._acting else 1

    def _open_acting(self) -> Acting | None:
        """The head of a checkpoint that was aligned to act otherwise than by its sampler."""
        folder = self._checkpoint.folder if self._checkpoint else None
        if folder is None or not (folder / HEAD).is_dir():
            return None
        acting = load_acting(folder / HEAD)
        acting.head.to(self.device)
        if self._guided:
            raise ValueError(
                f"{folder} acts by {acting.config.kind!r}, which knows no real-time chunking: choose another hand-over"
            )
        return acting

    def draw_noise(self, keys: Sequence[int]) -> Float[Tensor, "batch*candidate horizon slot"]:
        """Noise by key; of several candidates the first one's is that of a policy without."""
        shape = (self.horizon, self.policy.config.action_dim)
        named = [key + candidate * _KEYS for key in keys for candidate in range(self._candidates)]
        return self._noise.normal(torch.tensor(named), shape, "sampling noise").to(self.device)

    def _gate_chunks(self) -> list[Float[Tensor, "batch horizon slot"]]:
        """What the quality gate compares: chunks from fixed noise, of made-up tokens for a bare policy."""
        config = self.policy.config
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(self.device)

        if self._checkpoint:
            model = self.model
            condition = model.condition(model.observe([self.example_observation()] * 4))
            noise = model.place_noise(normal(4, self.horizon, config.action_dim), condition.action_mask)
            return [self.policy.predict_action(**vars(condition), noise=noise)]
        return [
            self.policy.predict_action(
                lang_tokens=normal(4, min(32, config.max_lang_cond_len), config.lang_token_dim),
                lang_attn_mask=None,
                img_tokens=normal(4, config.img_cond_len, config.img_token_dim),
                state_tokens=normal(4, 1, config.state_token_dim),
                action_mask=torch.ones(4, 1, config.action_dim, device=self.device),
                ctrl_freqs=torch.full((4,), 25.0, device=self.device),
                noise=normal(4, self.horizon, config.action_dim),
            )
        ]

    def _loaded(self) -> Checkpoint:
        if self._checkpoint is None:
            raise ValueError("this engine holds a bare policy without encoders and robot: open a checkpoint folder")
        return self._checkpoint

    def _start_ns(self, observation: Observation) -> int:
        """The time that a chunk's first action is meant for."""
        return observation.stamp_ns + self.robot.action_offset_steps * round(1e9 / observation.control_hz)

    def _chunk(self, observation: Observation, actions: np.ndarray) -> ActionChunk:
        return ActionChunk.answering(observation, actions, self.robot.action_offset_steps)


def _num_parameters(policy: RDTPolicy) -> int:
    return sum(parameter.numel() for parameter in policy.parameters())
