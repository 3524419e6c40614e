"""Whole programs together: what people have installed, the kernel, and nfnl."""
