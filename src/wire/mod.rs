//! Codecs as incremental state machines. Nothing here performs input or output.
