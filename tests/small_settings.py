"""Settings of the smallest training that is still one, for tests of what is done around it."""

from scriven.settings import (
    BudgetSettings,
    ModelSettings,
    MonitorSettings,
    ReaderSettings,
    Settings,
    TrainingSettings,
)

SMALL = Settings(
    budget=BudgetSettings(steps=3),
    model=ModelSettings(width=8, layers=1),
    reader=ReaderSettings(batch=2, length=8),
    training=TrainingSettings(workers=1, threads=1, precision="fp32"),
    monitor=MonitorSettings(sample_length=0),
)
