"""The trainer: adapters out of pictures, on a frozen base, with everything that made them on record."""
