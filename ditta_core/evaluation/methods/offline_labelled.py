"""Adaptations to recorded drives that learn from labelled drives of another world besides the warm-up frames."""

from __future__ import annotations

from ditta_core.domain.recipes import da_stc, da_vsn, fda, pixmatch, rda, source_only, tps, vat
from ditta_core.evaluation.methods.offline import Offline


class SourceOnly(Offline):
    """Labelled drives alone, from the statistics of the warm-up on; the row that the others must beat."""

    uses_labelled = True
    recipe = source_only.SourceOnly


class FDA(SourceOnly):
    """Labelled drives in the low amplitudes of the warm-up frames, and certainty and labels on those (FDA).

    Yang & Soatto, CVPR 2020.
    """

    recipe = fda.FDA


class TPS(SourceOnly):
    """Labelled drives in the colours of the warm-up frames, and labels of the frame before (TPS).

    Xing et al., ECCV 2022.
    """

    recipe = tps.TPS


class PixMatch(SourceOnly):
    """Labelled drives, and the same answer to perturbed warm-up frames (PixMatch).

    Melas-Kyriazi & Manrai, CVPR 2021.
    """

    recipe = pixmatch.PixMatch


class DASTC(SourceOnly):
    """TPS, and pairs of frames that are mixed between labelled drives and warm-up (DA-STC).

    Gao et al., TPAMI 2025.
    """

    recipe = da_stc.DASTC


class DAVSN(SourceOnly):
    """Labelled drives, and adversaries of one frame and of two (DA-VSN).

    Guan et al., ICCV 2021.
    """

    recipe = da_vsn.DAVSN


class VAT(SourceOnly):
    """Labelled drives, and an adversary that sees two frames and what can be followed between them (VAT).

    The first phase of Shin et al., AAAI 2022.
    """

    recipe = vat.VAT


class RDA(SourceOnly):
    """Labelled drives, an adversary, and the same answer to attacked frequencies (RDA).

    Huang et al., ICCV 2021.
    """

    recipe = rda.RDA
