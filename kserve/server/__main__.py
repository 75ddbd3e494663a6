"""`python -m kfp_foundry.server`."""

from kfp_foundry.server.main import main

raise SystemExit(main())
