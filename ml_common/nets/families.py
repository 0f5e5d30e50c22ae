"""How encoder, inters and decoders are wired in each family (spec: models, section 2.5).

Legend: N batch, C channels, H rows, W columns.

Easy to get wrong: in liae the dst code is [inter_B ; inter_AB] and the others are [inter_AB ; inter_AB], along channels
and in that order. Both sides run through shared networks as one batch: larger kernels, fewer launches, equal numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ml_common.nets.autoencoder import Decoder, Encoder, Inter
from ml_common.nets.config import ModelConfig
from ml_common.nets.registry import register_family
from ml_common.nets.swap_model import SwapModel, SwapOutputs, TrainOutputs


@register_family("df")
class DfModel(SwapModel):
    """One encoder and one inter for both sides, a decoder for each. The swap is decoder_src on the dst code."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.inter = Inter(config, self.encoder.out_size, config.ae_dims)
        self.decoder_src = Decoder(config, config.ae_dims)
        self.decoder_dst = Decoder(config, config.ae_dims)

    def forward(
        self, src_NCHW: Tensor, dst_NCHW: Tensor, *, with_swap: bool = False, with_stopped_swap: bool = False
    ) -> TrainOutputs:
        code_NCHW = self.inter(self.encoder(torch.cat([src_NCHW, dst_NCHW])))
        src_code_NCHW, dst_code_NCHW = code_NCHW.split([src_NCHW.shape[0], dst_NCHW.shape[0]])
        outputs = TrainOutputs(*self.decoder_src(src_code_NCHW), *self.decoder_dst(dst_code_NCHW))
        if with_swap:
            swap, swap_mask = self.decoder_src(dst_code_NCHW)
            outputs = outputs._replace(src_dst=swap, src_dst_mask=swap_mask)
        if with_stopped_swap:
            outputs = outputs._replace(src_dst_from_stopped_code=self.decoder_src.image(dst_code_NCHW.detach()))
        return outputs

    def swap(self, dst_NCHW: Tensor) -> SwapOutputs:
        code_NCHW = self.inter(self.encoder(dst_NCHW))
        image_NCHW, mask_NCHW = self.decoder_src(code_NCHW)
        return SwapOutputs(image_NCHW, mask_NCHW, self.decoder_dst.mask(code_NCHW))

    def parts(self) -> dict[str, nn.Module]:
        return {
            "encoder": self.encoder,
            "inter": self.inter,
            "decoder_src": self.decoder_src,
            "decoder_dst": self.decoder_dst,
        }


@register_family("liae")
class LiaeModel(SwapModel):
    """One decoder for both sides; identity lives in which inters fill the two halves of the code."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.inter_AB = Inter(config, self.encoder.out_size, 2 * config.ae_dims)
        self.inter_B = Inter(config, self.encoder.out_size, 2 * config.ae_dims)
        self.decoder = Decoder(config, 4 * config.ae_dims)

    def forward(
        self, src_NCHW: Tensor, dst_NCHW: Tensor, *, with_swap: bool = False, with_stopped_swap: bool = False
    ) -> TrainOutputs:
        sizes = [src_NCHW.shape[0], dst_NCHW.shape[0]]
        encoding_NZ = self.encoder(torch.cat([src_NCHW, dst_NCHW]))
        src_ab_NCHW, dst_ab_NCHW = self.inter_AB(encoding_NZ).split(sizes)
        dst_b_NCHW = self.inter_B(encoding_NZ[sizes[0] :])
        first_half_NCHW = torch.cat([src_ab_NCHW, dst_b_NCHW])
        second_half_NCHW = torch.cat([src_ab_NCHW, dst_ab_NCHW])
        image_NCHW, mask_NCHW = self.decoder(torch.cat([first_half_NCHW, second_half_NCHW], dim=1))
        src_src_NCHW, dst_dst_NCHW = image_NCHW.split(sizes)
        src_src_mask_NCHW, dst_dst_mask_NCHW = mask_NCHW.split(sizes)
        outputs = TrainOutputs(src_src_NCHW, src_src_mask_NCHW, dst_dst_NCHW, dst_dst_mask_NCHW)
        if with_swap:
            swap, swap_mask = self.decoder(torch.cat([dst_ab_NCHW, dst_ab_NCHW], dim=1))
            outputs = outputs._replace(src_dst=swap, src_dst_mask=swap_mask)
        if with_stopped_swap:
            stopped_NCHW = torch.cat([dst_ab_NCHW, dst_ab_NCHW], dim=1).detach()
            outputs = outputs._replace(src_dst_from_stopped_code=self.decoder.image(stopped_NCHW))
        return outputs

    def swap(self, dst_NCHW: Tensor) -> SwapOutputs:
        encoding_NZ = self.encoder(dst_NCHW)
        ab_NCHW = self.inter_AB(encoding_NZ)
        b_NCHW = self.inter_B(encoding_NZ)
        image_NCHW, mask_NCHW = self.decoder(torch.cat([ab_NCHW, ab_NCHW], dim=1))
        return SwapOutputs(image_NCHW, mask_NCHW, self.decoder.mask(torch.cat([b_NCHW, ab_NCHW], dim=1)))

    def parts(self) -> dict[str, nn.Module]:
        return {
            "encoder": self.encoder,
            "inter_AB": self.inter_AB,
            "inter_B": self.inter_B,
            "decoder": self.decoder,
        }

    def _frozen_parts_of_the_reference(self, *, random_warp: bool) -> frozenset[str]:
        return frozenset() if random_warp else frozenset({"inter_AB"})
