"""The whole loop on the mini base: train, register, push, pull, compose, and a contact sheet to look at."""
