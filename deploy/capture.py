"""Static shapes for the real-time road: a function captured in a CUDA graph, and the sampler made of three of them.

A captured function reads and writes buffers that were allocated once. On a CPU the same classes call the function
itself, so that every test of the road but the capture runs without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from torch import Tensor

from rdt.batch import Condition
from rdt.diffusion.guidance import LIMIT, Guidance, Jacobian
from rdt.diffusion.solver import TableSampler
from rdt.model.policy import RDTPolicy

LANGUAGE_BUCKETS = (32, 64, 128)
"""Language lengths that are captured; an instruction is padded to the next one, and masked there."""

WARM_UPS = 3  # runs before a capture: libraries choose kernels and allocate workspaces in the first ones


class Captured:
    """`function(*inputs)` of fixed shapes: one CUDA graph where `capture` says so, an ordinary call elsewhere.

    `output` is overwritten by the next call.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        examples: Sequence[Tensor],
        *,
        capture: bool,
        pool: Any = None,
    ) -> None:
        """Take inputs like `examples`; graphs of one `pool` share memory and must run one after the other."""
        self._function = function
        self.inputs = tuple(example.clone() for example in examples)
        self._graph: torch.cuda.CUDAGraph | None = None
        if not capture:
            self.output = function(*self.inputs)
            return
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                function(*self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # other threads (a camera's, a recorder's) may use CUDA meanwhile
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self.output = function(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Any:
        for buffer, value in zip(self.inputs, inputs, strict=True):
            buffer.copy_(value)
        if self._graph is None:
            self.output = self._function(*self.inputs)
        else:
            self._graph.replay()
        return self.output


class StaticSampler:
    """Projection and denoising of one batch size; language is padded to one of a few lengths.

    Keys and values of the pictures are one set of buffers, which the denoising graphs of all language lengths read.
    A guided loop is a graph of its own, forward and backward passes together: the plain one does not pay for it.
    """

    def __init__(
        self,
        policy: RDTPolicy,
        batch: int,
        buckets: Sequence[int],
        *,
        capture: bool,
        guided: Jacobian | None = None,
        candidates: int = 1,
    ) -> None:
        """Allocate, run once and, with `capture`, record the graphs; under `no_grad`, like all later calls.

        `candidates` chunks are drawn of each observation, whose projection they share.
        """
        config = policy.config
        self.batch = batch
        self.candidates = candidates
        self.guided = guided
        self.buckets = tuple(sorted({min(bucket, config.max_lang_cond_len) for bucket in buckets}))
        pool = torch.cuda.graph_pool_handle() if capture else None
        make = partial(Captured, capture=capture, pool=pool)

        def zeros(*shape: int, dtype: torch.dtype = policy.dtype) -> Tensor:
            return torch.zeros(batch, *shape, dtype=dtype, device=policy.device)

        self._images = make(policy.project_images, [zeros(config.img_cond_len, config.img_token_dim)])
        self._language: dict[int, Captured] = {}
        self._denoise: dict[int, Captured] = {}
        self._guided: dict[int, Captured] = {}
        # a scheduler of diffusers looks at the host in every step
        make_loop = partial(Captured, capture=capture and isinstance(policy.sampler, TableSampler), pool=pool)
        chunk = zeros(config.pred_horizon, config.action_dim, dtype=torch.float32).repeat(candidates, 1, 1)
        for bucket in self.buckets:
            words = torch.ones(batch, bucket, dtype=torch.bool, device=policy.device)
            language = self._language[bucket] = make(
                policy.project_language, [zeros(bucket, config.lang_token_dim), words]
            )
            loop = partial(self._sample, policy, language)
            inputs = [
                words,
                zeros(1, config.state_token_dim, dtype=torch.float32),
                zeros(1, config.action_dim, dtype=torch.float32),
                zeros(dtype=torch.float32),
                chunk,
            ]
            self._denoise[bucket] = make_loop(loop, inputs)
            if guided is not None:
                self._guided[bucket] = make_loop(loop, [*inputs, chunk, chunk])
        self._bucket = self.buckets[0]
        self._condition: Condition | None = None

    def bucket_for(self, language_tokens: int) -> int | None:
        """The shortest captured length that holds an instruction; None: it is longer than all of them."""
        return next((bucket for bucket in self.buckets if bucket >= language_tokens), None)

    def serves(self, language_tokens: int, guidance: Guidance | None) -> bool:
        """Whether a request fits what was announced; otherwise it runs eagerly, elsewhere."""
        # a graph keeps its limit and its Jacobian
        announced = guidance is None or (guidance.jacobian, guidance.limit) == (self.guided, LIMIT)
        return announced and self.bucket_for(language_tokens) is not None

    def project(self, condition: Condition) -> None:
        """Keys and values of all layers, from which `denoise` then samples."""
        bucket = self.bucket_for(condition.lang_tokens.shape[1])
        if bucket is None:
            raise ValueError(f"{condition.lang_tokens.shape[1]} language tokens, captured are {list(self.buckets)}")
        padding = bucket - condition.lang_tokens.shape[1]
        language, mask = condition.lang_tokens, condition.lang_attn_mask
        if condition.lang_index is not None:
            language, mask = language[condition.lang_index], mask[condition.lang_index]
        self._images(condition.img_tokens)
        self._lang_mask = F.pad(mask, (0, padding))
        self._language[bucket](F.pad(language, (0, 0, 0, padding)), self._lang_mask)
        self._bucket, self._condition = bucket, condition

    def denoise(
        self, noise: Float[Tensor, "batch*candidate horizon slot"], guidance: Guidance | None = None
    ) -> Float[Tensor, "batch*candidate horizon slot"]:
        """Actions from noise, guided where that was announced; overwritten by the next call."""
        condition = self._condition
        assert condition is not None
        inputs = self._lang_mask, condition.state_tokens, condition.action_mask, condition.ctrl_freqs, noise
        if guidance is None:
            return self._denoise[self._bucket](*inputs)
        return self._guided[self._bucket](*inputs, guidance.target, guidance.weights)

    def _sample(
        self,
        policy: RDTPolicy,
        language: Captured,
        lang_mask: Bool[Tensor, "batch lang"],
        state: Float[Tensor, "batch 1 slot"],
        action_mask: Float[Tensor, "batch 1 slot"],
        ctrl_freqs: Float[Tensor, " batch"],
        noise: Float[Tensor, "batch horizon slot"],
        *guidance: Float[Tensor, "batch horizon slot"],
    ) -> Float[Tensor, "batch horizon slot"]:
        condition = policy.join_condition(
            language.output, self._images.output, lang_mask, state, action_mask, ctrl_freqs
        )
        if self.candidates > 1:
            condition = condition.repeated(self.candidates)
        if not guidance:
            return policy.sample(condition, noise)
        assert self.guided is not None
        return policy.sample(condition, noise, Guidance(guidance[0], guidance[1], jacobian=self.guided))
