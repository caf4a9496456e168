"""Diffusion on stock diffusers pipelines: step control, loading, previews. Only a runner child imports this."""
