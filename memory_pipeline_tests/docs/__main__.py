"""Write every generated page: ``python -m memory_pipeline_tests.docs``."""

from memory_pipeline_tests.docs.generated import GENERATED

for path, page in GENERATED.items():
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page())
