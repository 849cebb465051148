"""DRIFT: transfer reasoning from a text expert into a multimodal model by biasing SFT gradients."""

__version__ = "0.1.0"
