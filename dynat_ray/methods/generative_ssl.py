"""Adversarial examples as training data, screened by a generative model (Yang, Wei, Guo, Zheng and
Lan, "Adversarial example classification algorithm based on generative self-supervised learning",
Microelectronics & Computer 41(2), 2024).

The goal is *clean* accuracy above standard training. The abstract gives the steps: self-supervised
training of a generative model; with it, screening of the features of adversarial examples; what is
useful goes to the classifier; joint end-to-end training. Architecture and losses are ours:

- The generative model `D(E(x))` is an autoencoder trained to fill in masked and noisy clean images.
- For the first `pretraining` part of the run it learns that beside the classifier's standard
  training. Then adversarial images `x'` are screened, `x~ = D(M * E(x'))` with a learned gate `M`,
  and all is trained jointly by `CE(f(x), y) + adversarial CE(f(x~), y)
  + reconstruction (|D(E(mask(x))) - x|^2 + |D(E(x')) - x|^2) + consistency KL(p(x) || p(x~))
  + sparsity mean M`, squares per pixel, `p(x)` detached in the KL.
- As AdvProp (Xie et al., CVPR 2020) keeps statistics of both kinds of images apart, running
  statistics of batch normalisation come from clean images alone; unlike there, its scale and shift
  are shared, since the model is tested on (and saved for) clean images only.
- The attack has a part of the threat's budget: strong attacks cost clean accuracy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynat_ray import keyed_random
from dynat_ray.acceleration.modes import unchanged_statistics
from dynat_ray.data import Batch
from dynat_ray.method_settings.plain import GenerativeSSLSettings
from dynat_ray.methods.autoencoder import ScreeningAutoencoder
from dynat_ray.methods.base import Method, MethodLoss, Prepared
from dynat_ray.methods.registration import register
from dynat_ray.methods.sample_columns import attack_record
from dynat_ray.models import Classifier
from dynat_ray.perturb.objectives import kl_divergence

# Masks are drawn on a grid of so many cells a side; smaller images have a cell a pixel.
_MASK_CELLS = 8
# Of the random numbers that belong to a sample; the attack draws from the ones before.
_MASK_STREAM, _NOISE_STREAM = 14, 15


@register
class GenerativeSSL(Method[GenerativeSSLSettings]):
    """Standard training that also learns from screened adversarial images."""

    settings_class = GenerativeSSLSettings

    def attach(self, network: Classifier) -> None:
        if self.settings.screening != "raw":
            autoencoder = ScreeningAutoencoder(network.channels, self.settings.width)
            self.extra["autoencoder"] = autoencoder.to(network.mean.device)
            self.extra_learning_rate_ratio = self.settings.lr_ratio

    def score(self, clean: float, robust: float) -> tuple[float, float]:
        return clean, robust

    @property
    def pretraining(self) -> bool:
        """The classifier doesn't see screened images yet."""
        return self.progress < self.settings.pretraining

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        extras = {}
        if self._autoencoder_learns:
            extras["masked"] = self._masked(batch.images, keys)
        if self.pretraining:
            return Prepared(batch, extras=extras)
        if not self.settings.attack_images:
            return Prepared(batch, batch.images, extras=extras)
        outcome = self.attack(network, batch, keys, "ce", ratios=self.settings.attack_ratio)
        record = attack_record(outcome, batch.main_labels)
        return Prepared(batch, outcome.images, record=record, extras=extras)

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        settings, batch = self.settings, prepared.batch
        logits: Tensor = network(batch.images).float()
        clean = self.cross_entropies(logits, batch)
        record = {"predicted": logits.detach().argmax(dim=1), "clean_loss": clean.detach()}
        total = clean.mean()
        if self._autoencoder_learns:
            total = total + settings.reconstruction * self._filling_loss(prepared)
        if self.pretraining:
            return MethodLoss(total, record)
        images, autoencoder_loss = self._screened(prepared)
        with unchanged_statistics(network):
            screened_logits: Tensor = network(images).float()
        screened = self.cross_entropies(screened_logits, batch)
        # The clean prediction teaches and isn't drawn towards what screening has left.
        clean_log_probs = logits.detach().log_softmax(dim=1)
        kl = kl_divergence(clean_log_probs, screened_logits.log_softmax(dim=1))
        record |= {"adversarial_loss": screened.detach(), "kl": kl.detach()}
        useful = settings.adversarial * screened.mean() + settings.consistency * kl.mean()
        return MethodLoss(total + useful + autoencoder_loss, record)

    @property
    def _autoencoder_learns(self) -> bool:
        return "autoencoder" in self.extra and (self.pretraining or self.settings.train_jointly)

    @property
    def _autoencoder(self) -> ScreeningAutoencoder:
        autoencoder = self.extra["autoencoder"]
        assert isinstance(autoencoder, ScreeningAutoencoder)
        return autoencoder

    def _masked(self, images: Tensor, keys: Tensor) -> Tensor:
        height, width = images.shape[2:]
        cells = (min(_MASK_CELLS, height), min(_MASK_CELLS, width))
        kept = keyed_random.uniform(keys, 1, *cells, stream=_MASK_STREAM) >= self.settings.mask
        noise = keyed_random.normal(keys, *images.shape[1:], stream=_NOISE_STREAM)
        seen = F.interpolate(kept.to(images.dtype), size=(height, width))
        return (images + self.settings.noise * noise) * seen

    def _filling_loss(self, prepared: Prepared) -> Tensor:
        """Returns `|D(E(mask(x))) - x|^2`, per pixel."""
        autoencoder, images = self._autoencoder, prepared.batch.images
        code = autoencoder.encode(prepared.extras["masked"])
        filled = autoencoder.decode(code, tuple(images.shape[2:]))
        return F.mse_loss(filled.float(), images)

    def _screened(self, prepared: Prepared) -> tuple[Tensor, Tensor]:
        """Returns the images that the classifier learns from, and the autoencoder's own loss."""
        settings, adversarial = self.settings, prepared.adversarial
        assert adversarial is not None
        nothing = adversarial.new_zeros(())
        if settings.screening == "raw":
            return adversarial, nothing
        autoencoder, size = self._autoencoder, tuple(adversarial.shape[2:])
        with torch.set_grad_enabled(settings.train_jointly):
            code = autoencoder.encode(adversarial)
            plain = autoencoder.decode(code, size)
            loss = settings.reconstruction * F.mse_loss(plain.float(), prepared.batch.images)
            if settings.screening == "none":
                return plain, loss
            gate = autoencoder.screen(code)
            return autoencoder.decode(gate * code, size), loss + settings.sparsity * gate.mean()
