"""The MongoDB client and the encryption of stored credentials; knows no settings."""
