"""Access policies: who may use which single tools through the gateway."""
