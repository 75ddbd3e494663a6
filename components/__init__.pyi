# Written by `kfp-foundry docs`; lazy_loader wants relative imports.
# ruff: noqa: TID251, TID252
from .deployment.deploy_model.component import deploy_model as deploy_model
from .deployment.verify_endpoint.component import verify_endpoint as verify_endpoint
from .evaluation.compare_models.component import compare_models as compare_models
from .evaluation.evaluate_model.component import evaluate_model as evaluate_model
from .evaluation.write_report.component import write_report as write_report
from .features.split_table.component import split_table as split_table
from .ingestion.ingest_table.component import ingest_table as ingest_table
from .registry.promote_model.component import promote_model as promote_model
from .registry.register_model.component import register_model as register_model
from .training.train_distributed.component import train_distributed as train_distributed
from .training.train_model.component import train_model as train_model
from .tuning.tune_model.component import tune_model as tune_model
from .validation.infer_contract.component import infer_contract as infer_contract
from .validation.require_verdict.component import require_verdict as require_verdict
from .validation.validate_table.component import validate_table as validate_table
