"""The RDT policy: adaptors, transformer and diffusion put together (spec rdt.md sections 3 and 5).

Tokens of the encoders in, a chunk of actions out; the words and shapes are those of spec section 14:

    lang_tokens     (batch, lang, lang_token_dim)   features of the text encoder
    lang_attn_mask  (batch, lang)                   True where a token counts; None: everywhere; nowhere: no language
    img_tokens      (batch, img, img_token_dim)     (frame, camera, patch), oldest frame first
    state_tokens    (batch, 1, slot)                the state in unified units
    action_mask     (batch, 1, slot)                1 where the robot has the slot, 0 elsewhere
    ctrl_freqs      (batch,)                        control frequency in Hz

A batch holds few distinct instructions: with `lang_index` (batch,), language comes as one row an instruction,
and sample i reads row `lang_index[i]`.

Training and serving run the same two calls: `encode_condition` (what one observation says) and `denoise` (one
pass of the network). Serving lets the first work out keys and values too, which no denoising step changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn

from rdt.diffusion.guidance import Guidance
from rdt.diffusion.process import q_sample, training_target
from rdt.diffusion.schedule import squared_cosine_alphas_cumprod
from rdt.diffusion.solver import DEFAULT_SAMPLER, Sampler, SolverStep, TableSampler, make_sampler
from rdt.model.inputs import check_actions, check_condition, check_timesteps
from rdt.model.layers import KeyValue, Norm, make_adaptor
from rdt.model.position import condition_table, sequence_table
from rdt.model.presets import RDTConfig
from rdt.model.transformer import Transformer


class EncodedCondition(NamedTuple):
    """All that the network needs of an observation, the same at all denoising steps."""

    freq_token: Float[Tensor, "batch 1 hidden"]
    state_token: Float[Tensor, "batch 1 hidden"]
    per_block: tuple[KeyValue | Float[Tensor, "batch _ hidden"], ...]
    lang_mask: Bool[Tensor, "batch 1 1 lang"] | None
    action_mask: Float[Tensor, "batch 1 slot"]

    def repeated(self, count: int) -> EncodedCondition:
        """Every observation `count` times in a row, for as many chunks of each; of a single one no copy is made."""

        def again(tensor: Tensor) -> Tensor:
            if len(tensor) == 1:
                return tensor.expand(count, *tensor.shape[1:])
            return tensor.repeat_interleave(count, dim=0)

        def block(entry: KeyValue | Tensor) -> KeyValue | Tensor:
            return KeyValue(*map(again, entry)) if isinstance(entry, KeyValue) else again(entry)

        return EncodedCondition(
            freq_token=again(self.freq_token),
            state_token=again(self.state_token),
            per_block=tuple(block(entry) for entry in self.per_block),
            lang_mask=None if self.lang_mask is None else again(self.lang_mask),
            action_mask=again(self.action_mask),
        )


class RDTPolicy(nn.Module):
    """A robot policy `p(action chunk | language, images, state, control frequency)`."""

    def __init__(self, config: RDTConfig) -> None:
        super().__init__()
        self.config = config
        self.lang_adaptor = make_adaptor(config.lang_adaptor, config.lang_token_dim, config.hidden_size)
        self.img_adaptor = make_adaptor(config.img_adaptor, config.img_token_dim, config.hidden_size)
        # values and mask bits side by side, for the state and for every action
        self.state_adaptor = make_adaptor(config.state_adaptor, 2 * config.state_token_dim, config.hidden_size)
        self.model = Transformer(
            hidden_size=config.hidden_size,
            depth=config.depth,
            num_heads=config.num_heads,
            horizon=config.pred_horizon,
            action_dim=config.action_dim,
            max_lang_tokens=config.max_lang_cond_len,
            num_img_tokens=config.img_cond_len,
            norm=config.norm,
        )
        # no buffers: `.to(bfloat16)` must not round them, and the meta device must not lose them
        self.alphas_cumprod = squared_cosine_alphas_cumprod(config.num_train_timesteps)  # float32, on the CPU
        self.set_sampler()
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Set every parameter (spec section 3.7); also to be called after `to_empty` on a meta-device model.

        | parameter                                      | start                               |
        |------------------------------------------------|-------------------------------------|
        | linear layers of the transformer               | Xavier uniform, bias 0              |
        | `t_embedder`, `freq_embedder` weights          | normal(0, 0.02)                     |
        | last linear layer (`final_layer...fc2`)        | 0: the first prediction is 0        |
        | norms                                          | 1                                   |
        | positions                                      | sin-cos tables of `position.py`     |
        | adaptors                                       | PyTorch's own for `nn.Linear`, or   |
        |                                                | He normal weights by `adaptor_init` |
        """
        config, model = self.config, self.model
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, Norm):
                nn.init.ones_(module.weight)
        for embedder in (model.t_embedder, model.freq_embedder):
            nn.init.normal_(embedder.mlp[0].weight, std=0.02)
            nn.init.normal_(embedder.mlp[2].weight, std=0.02)
        nn.init.zeros_(model.final_layer.ffn_final.fc2.weight)
        for adaptor in (self.lang_adaptor, self.img_adaptor, self.state_adaptor):
            for module in adaptor.modules():
                if isinstance(module, nn.Linear):
                    module.reset_parameters()
                    if config.adaptor_init == "he":
                        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if model.x_pos_embed.is_meta:
            return  # a table for storage that does not exist
        width = config.hidden_size
        for parameter, table in (
            (model.x_pos_embed, sequence_table(width, config.pred_horizon)),
            (
                model.lang_cond_pos_embed,
                condition_table(width, config.max_lang_cond_len, config.lang_pos_embed_config),
            ),
            (
                model.img_cond_pos_embed,
                condition_table(width, config.img_cond_len, config.img_pos_embed_config),
            ),
        ):
            parameter.copy_(torch.from_numpy(table)[None])

    @property
    def device(self) -> torch.device:
        return self.model.x_pos_embed.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights; inputs of other types are cast on entry."""
        return self.model.x_pos_embed.dtype

    def set_sampler(self, name: str = DEFAULT_SAMPLER, num_steps: int | None = None) -> None:
        """Choose how actions are sampled: a name of `rdt/diffusion/solver.py`, or a scheduler of diffusers.

        Without `num_steps`, those of the config. Neither the weights nor the config know of the choice: a policy that
        is loaded samples as published.
        """
        num_steps = self.config.num_inference_timesteps if num_steps is None else num_steps
        self.sampler: Sampler = make_sampler(name, self.alphas_cumprod, num_steps, self.config.prediction_type)

    @property
    def solver_table(self) -> tuple[SolverStep, ...]:
        """The constants of the sampler in use; `ValueError` for a scheduler of diffusers, which has none."""
        if not isinstance(self.sampler, TableSampler):
            raise ValueError(f"{self.sampler} has no table of constants: choose dpm_solver++, ddim or ddpm")
        return self.sampler.table

    def encode_condition(
        self,
        lang_tokens: Float[Tensor, "rows lang lang_dim"],
        lang_attn_mask: Bool[Tensor, "rows lang"] | None,
        img_tokens: Float[Tensor, "batch img img_dim"],
        state_tokens: Float[Tensor, "batch 1 slot"],
        action_mask: Num[Tensor, "batch 1 slot"],
        ctrl_freqs: Num[Tensor, " batch"],
        *,
        lang_index: Int[Tensor, " batch"] | None = None,
        key_values: bool = True,
    ) -> EncodedCondition:
        """Everything that does not change between denoising steps, worked out once an observation.

        With `key_values=False` the blocks get the condition's tokens and project them themselves: the numbers
        are the same, and in training each block's work and memory stay inside the block. Shared instructions
        are projected here in any case, a row for each, before they are dealt out. Raises `ValueError` for arguments
        that do not fit (`inputs.py`).
        """
        check_condition(
            self.config,
            self.device,
            lang_tokens=lang_tokens,
            lang_attn_mask=lang_attn_mask,
            img_tokens=img_tokens,
            state_tokens=state_tokens,
            action_mask=action_mask,
            ctrl_freqs=ctrl_freqs,
            lang_index=lang_index,
        )
        language: Sequence[KeyValue | Tensor]
        images: Sequence[KeyValue | Tensor]
        if key_values or lang_index is not None:
            language = self.project_language(lang_tokens, lang_attn_mask, lang_index)
        else:
            language = [self._place_language(lang_tokens, lang_attn_mask)] * self.num_layers[0]
        if key_values:
            images = self.project_images(img_tokens)
        else:
            images = [self._place_images(img_tokens)] * self.num_layers[1]
        if lang_index is not None and lang_attn_mask is not None:
            lang_attn_mask = lang_attn_mask[lang_index]
        return self.join_condition(language, images, lang_attn_mask, state_tokens, action_mask, ctrl_freqs)

    @property
    def num_layers(self) -> tuple[int, int]:
        """Blocks that attend to language, and to images: they take turns, language first."""
        return (self.config.depth + 1) // 2, self.config.depth // 2

    def project_language(
        self,
        lang_tokens: Float[Tensor, "rows lang lang_dim"],
        lang_attn_mask: Bool[Tensor, "rows lang"] | None = None,
        lang_index: Int[Tensor, " batch"] | None = None,
    ) -> tuple[KeyValue, ...]:
        """Keys and values of the instruction for each block that reads it, row `lang_index[i]` for sample i."""
        rows = self.model.language_key_values(self._place_language(lang_tokens, lang_attn_mask))
        if lang_index is None:
            return rows
        return tuple(KeyValue(*(part.index_select(0, lang_index) for part in row)) for row in rows)

    def project_images(self, img_tokens: Float[Tensor, "batch img img_dim"]) -> tuple[KeyValue, ...]:
        """Keys and values of the pictures for each block that reads them: nearly all of a condition's work."""
        return self.model.image_key_values(self._place_images(img_tokens))

    def join_condition(
        self,
        language: Sequence[KeyValue | Float[Tensor, "batch lang hidden"]],
        images: Sequence[KeyValue | Float[Tensor, "batch img hidden"]],
        lang_attn_mask: Bool[Tensor, "batch lang"] | None,
        state_tokens: Float[Tensor, "batch 1 slot"],
        action_mask: Num[Tensor, "batch 1 slot"],
        ctrl_freqs: Num[Tensor, " batch"],
    ) -> EncodedCondition:
        """Projected language and images, dealt to the blocks in turn, with what is cheap to work out."""
        return EncodedCondition(
            freq_token=self.model.freq_embedder(ctrl_freqs)[:, None],
            state_token=self._embed(state_tokens, action_mask),
            per_block=tuple((language, images)[i % 2][i // 2] for i in range(self.config.depth)),
            lang_mask=None if lang_attn_mask is None else (lang_attn_mask | _wordless(lang_attn_mask))[:, None, None],
            action_mask=action_mask.to(self.dtype),
        )

    def denoise(
        self,
        noisy_action: Float[Tensor, "batch horizon slot"],
        timesteps: Num[Tensor, "#batch"],
        condition: EncodedCondition,
    ) -> Float[Tensor, "batch horizon slot"]:
        """One pass of the network: the clean action (`sample`) or the noise (`epsilon`) in `noisy_action`."""
        return self.model(
            timesteps,
            condition.freq_token,
            condition.state_token,
            self._embed(noisy_action, condition.action_mask),
            condition.per_block,
            condition.lang_mask,
        )

    def sample(
        self,
        condition: EncodedCondition,
        noise: Float[Tensor, "batch horizon slot"],
        guidance: Guidance | None = None,
    ) -> Float[Tensor, "batch horizon slot"]:
        """Actions from noise by the sampler, in the noise's type; slots that the robot lacks are 0.

        `guidance` draws the robot's slots towards actions that are already decided (`rdt/diffusion/guidance.py`); the
        condition must then not come from inference mode.
        """
        if guidance is None:
            return self.sampler(partial(self.denoise, condition=condition), noise) * condition.action_mask
        live = condition.action_mask > 0

        def denoise_live(x: Tensor, timesteps: Tensor) -> Tensor:
            return self.denoise(torch.where(live, x, x.detach()), timesteps, condition)  # no pull on the other slots

        guidance = guidance._replace(weights=guidance.weights * live)
        return self.sampler(denoise_live, noise, guidance) * condition.action_mask

    @torch.no_grad()
    def predict_action(
        self,
        lang_tokens: Float[Tensor, "rows lang lang_dim"],
        lang_attn_mask: Bool[Tensor, "rows lang"] | None,
        img_tokens: Float[Tensor, "batch img img_dim"],
        state_tokens: Float[Tensor, "batch 1 slot"],
        action_mask: Num[Tensor, "batch 1 slot"],
        ctrl_freqs: Num[Tensor, " batch"],
        noise: Float[Tensor, "batch horizon slot"] | None = None,
        *,
        lang_index: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch horizon slot"]:
        """A chunk of actions in the units of training, float32; without `noise`, it is drawn at random."""
        check_actions(self.config, self.device, len(state_tokens), noise=noise)
        condition = self.encode_condition(
            lang_tokens,
            lang_attn_mask,
            img_tokens,
            state_tokens,
            action_mask,
            ctrl_freqs,
            lang_index=lang_index,
        )
        if noise is None:
            shape = (len(state_tokens), self.config.pred_horizon, self.config.action_dim)
            noise = torch.randn(shape, device=self.device)
        return self.sample(condition, noise.float())

    def forward(
        self,
        noisy_action: Float[Tensor, "batch horizon slot"],
        timesteps: Int[Tensor, "#batch"],
        lang_tokens: Float[Tensor, "rows lang lang_dim"],
        lang_attn_mask: Bool[Tensor, "rows lang"] | None,
        img_tokens: Float[Tensor, "batch img img_dim"],
        state_tokens: Float[Tensor, "batch 1 slot"],
        action_mask: Num[Tensor, "batch 1 slot"],
        ctrl_freqs: Num[Tensor, " batch"],
        *,
        lang_index: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch horizon slot"]:
        """The prediction from bare tokens: what an objective calls, through whatever wraps the module."""
        condition = self.encode_condition(
            lang_tokens,
            lang_attn_mask,
            img_tokens,
            state_tokens,
            action_mask,
            ctrl_freqs,
            lang_index=lang_index,
            key_values=False,
        )
        return self.denoise(noisy_action, timesteps, condition)

    def compute_loss(
        self,
        lang_tokens: Float[Tensor, "rows lang lang_dim"],
        lang_attn_mask: Bool[Tensor, "rows lang"] | None,
        img_tokens: Float[Tensor, "batch img img_dim"],
        state_tokens: Float[Tensor, "batch 1 slot"],
        action_gt: Float[Tensor, "batch horizon slot"],
        action_mask: Num[Tensor, "batch 1 slot"],
        ctrl_freqs: Num[Tensor, " batch"],
        noise: Float[Tensor, "batch horizon slot"] | None = None,
        timesteps: Int[Tensor, " batch"] | None = None,
        *,
        lang_index: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """The published loss (spec section 5): mean squared error over batch, chunk and all 128 slots.

        Noise covers masked slots too, and their target is 0. What is not given is drawn at random.
        """
        check_actions(self.config, self.device, len(state_tokens), action_gt=action_gt, noise=noise)
        check_timesteps(self.device, len(state_tokens), timesteps)
        action_gt = action_gt.float()
        if noise is None:
            noise = torch.randn_like(action_gt)
        if timesteps is None:
            timesteps = torch.randint(self.config.num_train_timesteps, (len(action_gt),), device=action_gt.device)
        noisy_action = q_sample(action_gt, noise, timesteps, self.alphas_cumprod.to(action_gt.device))
        prediction = self(
            noisy_action,
            timesteps,
            lang_tokens,
            lang_attn_mask,
            img_tokens,
            state_tokens,
            action_mask,
            ctrl_freqs,
            lang_index=lang_index,
        )
        return F.mse_loss(prediction.float(), training_target(self.config.prediction_type, action_gt, noise).float())

    def _place_language(
        self, lang_tokens: Float[Tensor, "rows lang lang_dim"], lang_attn_mask: Bool[Tensor, "rows lang"] | None
    ) -> Float[Tensor, "rows lang hidden"]:
        lang = self.lang_adaptor(lang_tokens.to(self.dtype))
        if lang_attn_mask is not None:
            lang = lang.masked_fill(_wordless(lang_attn_mask)[..., None], 0)
        return self.model.place_language(lang)

    def _place_images(self, img_tokens: Float[Tensor, "batch img img_dim"]) -> Float[Tensor, "batch img hidden"]:
        return self.model.place_images(self.img_adaptor(img_tokens.to(self.dtype)))

    def _embed(
        self, vectors: Float[Tensor, "batch token slot"], mask: Num[Tensor, "batch 1 slot"]
    ) -> Float[Tensor, "batch token hidden"]:
        """Tokens of states or actions: the values, then the same mask bits for each token."""
        vectors = vectors.to(self.dtype)
        return self.state_adaptor(torch.cat([vectors, mask.to(self.dtype).expand_as(vectors)], dim=-1))


def _wordless(lang_attn_mask: Bool[Tensor, "rows lang"]) -> Bool[Tensor, "rows 1"]:
    """Instructions without a token. Attention to nothing has no value (kernels give 0 or NaN): they read as zeros."""
    return ~lang_attn_mask.any(dim=1, keepdim=True)
