"""The record of every change and every refusal, and the proof that it is complete."""
