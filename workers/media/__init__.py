"""ffmpeg, picture decoding and the output gate."""
