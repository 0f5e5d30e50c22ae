"""One module per command or noun; each exports it under the command's name."""
