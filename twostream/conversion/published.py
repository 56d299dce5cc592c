"""Published weights of networks of clips: where they are, which network they are of, and what they were trained on.

The addresses are those that their authors' pages list: facebookresearch/VMZ (tutorials/models.md, c2/tutorials/model_zoo.md),
facebookresearch/video-nonlocal-net (README.md), moabitcoin/ig65m-pytorch (README.md). Those of torchvision's networks are in
torchvision.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedWeights:
    """A file of weights on the web."""

    backbone: str
    """a key of BACKBONES"""
    trained_on: str
    """data sets, in the order of the training, and what is special"""
    clip_len: int
    """frames of the clips that it was trained on"""
    url: str
    sha256_prefix: str = ""
    """first digits of the file's SHA-256; "" if its author states none, and only names and shapes can be checked"""

    @property
    def file_name(self) -> str:
        """Name of the file there."""
        return self.url.partition("?")[0].rpartition("/")[2]

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.file_name.rpartition(".")[0]

    @property
    def is_for_flow(self) -> bool:
        """Is it for flow, and not for RGB?"""
        return self.trained_on.endswith("; flow")

    @property
    def is_caffe2(self) -> bool:
        """Must it be converted before it can be trained on?"""
        return self.file_name.endswith(".pkl")


def _vmz(family: str, name: str, frames: int, key: str) -> PublishedWeights:
    """A network of 18 layers, trained on Kinetics-400 from random weights (VMZ, Tutorial 5)."""
    return _zoo(f"vmz_{family}_18", "Kinetics-400", frames, f"{key}/{name}_d18_l{frames}")


def _zoo(backbone: str, trained_on: str, frames: int, path: str) -> PublishedWeights:
    """A file of VMZ's model zoo."""
    return PublishedWeights(backbone, trained_on, frames, f"https://www.dropbox.com/s/{path}.pkl?dl=1")


def _i3d(backbone: str, name: str) -> PublishedWeights:
    """A model of video-nonlocal-net for 32 frames, 2 apart."""
    url = f"https://dl.fbaipublicfiles.com/video-nonlocal/{name}.pkl"
    return PublishedWeights(backbone, "ImageNet, Kinetics-400", 32, url)


def _ig65m(frames: int, trained_on: str, name: str, digits: str) -> PublishedWeights:
    """VMZ's R(2+1)D-34, converted by moabitcoin; the name ends in the first digits of the SHA-256."""
    url = f"https://github.com/moabitcoin/ig65m-pytorch/releases/download/v1.0.0/{name}-{digits}.pth"
    return PublishedWeights("vmz_r2plus1d_34", trained_on, frames, url, digits)


# fmt: off
PUBLISHED = {weights.name: weights for weights in (
    _ig65m(8, "IG-65M", "r2plus1d_34_clip8_ig65m_from_scratch", "9bae36ae"),
    _ig65m(32, "IG-65M", "r2plus1d_34_clip32_ig65m_from_scratch", "449a7af9"),
    _ig65m(8, "IG-65M, Kinetics-400", "r2plus1d_34_clip8_ft_kinetics_from_ig65m", "0aa0550b"),
    _ig65m(32, "IG-65M, Kinetics-400", "r2plus1d_34_clip32_ft_kinetics_from_ig65m", "ade133f1"),
    _vmz("r2plus1d", "r2.5d", 8, "wzgx4d80mrh7pnf"),
    _vmz("r3d", "r3d", 8, "n3ax2591imcy9ly"),
    _vmz("r2d", "r2d", 8, "ju4fah9dksn08s1"),
    _vmz("r2df", "r2df", 8, "4jexszps3564za3"),
    _vmz("mc2", "mc2", 8, "lkmhyjok8odtv8e"),
    _vmz("mc3", "mc3", 8, "3jxzhc3kduyrpik"),
    _vmz("mc4", "mc4", 8, "vx2xee36et823gs"),
    _vmz("mc5", "mc5", 8, "z6fxv6jr30i2lwz"),
    _vmz("rmc2", "rmc2", 8, "vnjpzq7li2b7tk2"),
    _vmz("rmc3", "rmc3", 8, "1vwjomlc45ox6u1"),
    _vmz("rmc4", "rmc4", 8, "zots41ng2xs2ezu"),
    _vmz("rmc5", "rmc5", 8, "3e56jjx6x1qot4x"),
    _vmz("r2plus1d", "r2.5d", 16, "94d2ruqn6tp7xno"),
    _vmz("r3d", "r3d", 16, "8tqp8uhjmedflu1"),
    _vmz("r2d", "r2d", 16, "hyw8ltzvhadxgia"),
    _vmz("r2df", "r2df", 16, "4yy0tdfebdy0ptr"),
    _vmz("mc2", "mc2", 16, "xmtqk2w3p60yly0"),
    _vmz("mc3", "mc3", 16, "rpgbzjewagjeu2f"),
    _vmz("mc4", "mc4", 16, "lrjwye0ldsgi2p2"),
    _vmz("mc5", "mc5", 16, "3qp62d3159rzwsj"),
    _vmz("rmc2", "rmc2", 16, "70k3p0xz6rjcdtb"),
    _vmz("rmc3", "rmc3", 16, "n8eulubwh6l3o0b"),
    _vmz("rmc4", "rmc4", 16, "di3wwadbapc61rn"),
    _vmz("rmc5", "rmc5", 16, "lb5jaji177hid7p"),
    _zoo("vmz_r2plus1d_34", "Kinetics-400", 32, "y6c6jf7myv2w6iq/r2.5d_d34_l32"),
    _zoo("vmz_r2plus1d_34", "Sports-1M, Kinetics-400", 32, "odd9smqn2t54run/r2.5d_d34_l32_ft_sports1m"),
    _zoo("vmz_r2plus1d_34", "Sports-1M, Kinetics-400; flow", 32, "30zj1t9xte5vy64/r2.5d_d34_l32_ft_sports1m_optical_flow"),
    _zoo("vmz_r2plus1d_152", "Kinetics-400", 32, "9770y063u3z5bmb/r2plus1d_152_kinetics_from_scratch_f127858918"),
    _zoo("vmz_r2plus1d_152", "Sports-1M", 32, "w5cdqeyqukuaqt7/r2plus1d_152_sports1m_from_scratch_f127111290"),
    _zoo("vmz_r2plus1d_152", "Sports-1M, Kinetics-400", 32, "twvcpe30rxuaf45/r2plus1d_152_ft_kinetics_from_sports1m_f128957437"),
    _zoo("vmz_r2plus1d_152", "IG-65M", 32, "oqdg176p7nqc84v/r2plus1d_152_ig65m_from_scratch_f106380637"),
    _zoo("vmz_r2plus1d_152", "IG-65M, Kinetics-400", 32, "tmxuae8ubo5gipy/r2plus1d_152_ft_kinetics_from_ig65m_f107107466"),
    _zoo("vmz_ir_csn_152", "Kinetics-400", 32, "46gcm7up60ssx5c/irCSN_152_kinetics_from_scratch_f98268019"),
    _zoo("vmz_ir_csn_152", "Sports-1M", 32, "woh99y2hll1mlqv/irCSN_152_sports1m_from_scratch_f99918785"),
    _zoo("vmz_ir_csn_152", "Sports-1M, Kinetics-400", 32, "zuoj1aqouh6bo6k/irCSN_152_ft_kinetics_from_sports1m_f101599884"),
    _zoo("vmz_ir_csn_152", "IG-65M", 32, "r0kppq7ox6c57no/irCSN_152_ig65m_from_scratch_f125286141"),
    _zoo("vmz_ir_csn_152", "IG-65M, Kinetics-400", 32, "gmd8r87l3wmkn3h/irCSN_152_ft_kinetics_from_ig65m_f126851907"),
    _zoo("vmz_ip_csn_152", "Kinetics-400", 32, "3fihu6ti60047mu/ipCSN_152_kinetics_from_scratch_f129594342"),
    _zoo("vmz_ip_csn_152", "Sports-1M", 32, "70di7o7qz6gjq6x/ipCSN_152_sports1m_from_scratch_f111018543"),
    _zoo("vmz_ip_csn_152", "Sports-1M, Kinetics-400", 32, "ir7cr0hda36knux/ipCSN_152_ft_kinetics_from_sports1m_f111279053"),
    _zoo("vmz_ip_csn_152", "IG-65M", 32, "1ryvx8k7kzs8od6/ipCSN_152_ig65m_from_scratch_f130601052"),
    _zoo("vmz_ip_csn_152", "IG-65M, Kinetics-400", 32, "zpp3p0vn2i7bibl/ipCSN_152_ft_kinetics_from_ig65m_f133090949"),
    _i3d("i3d_r50", "i3d_baseline_32x2_IN_pretrain_400k"),
    _i3d("i3d_nl_r50", "i3d_nonlocal_32x2_IN_pretrain_400k"),
)}
# fmt: on
"""name, which is that of its file -> weights"""
