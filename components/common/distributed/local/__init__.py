"""The local engine: ranks as supervised processes of this machine."""
