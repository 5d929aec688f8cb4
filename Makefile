# Needs python3 (3.11 to 3.13) and make; everything else is installed into .venv on first use.
#   make demo    a federated network on this machine: controller, two combiners, ten clients (ARGS=--json for one object)
#   make test    every test but the slow ones, on two cores (ARGS="-k rounds" to choose, "-n 0" to debug)
#   make check   the gates: style, types, layers, broad excepts, import closure, the Studio's scripts, the documentation site
#   make audit   known weaknesses of everything that is installed; part of check, where it may find no advisory source
#   make sbom    a bill of materials (CycloneDX) of what is installed here, in hansa.cdx.json (ARGS=FILE)
#   make faults  the fault laboratory for as long as you like (ARGS="sweep", "random --hours 8", "plants")
#   make dst     real nodes on a virtual clock and network, by seeds (ARGS="--seeds 0:10000", "--seed 42", "--plants")
#   make agree   drawn apps by several engines, which should agree (ARGS="--seeds 0:10000", "--case 42", "--processes", "--jax", "--network")
#   make fuzz    one reader of strangers' bytes, guided by coverage (ARGS="codec --seconds 600"; frames, archive, manifest)
#   make bench   the benchmarks, beside this machine's own limits
#   make bench-simulators   hansa's simulation beside other simulators, which it installs in environments of their own
#   make scripts types of the Studio's scripts, by TypeScript, which npm brings; part of check, where there is npm
#   make shots   images of every page of the Studio, in both themes and three widths, in shots/
#   make docs    reference pages from the code, and the site in site/
VENV ?= .venv
export VENV
RUN  := $(VENV)/bin/python -m
.PHONY: demo test check audit sbom faults dst agree fuzz bench bench-simulators docs scripts shots

demo:
	@tools/install server,sklearn
	@$(VENV)/bin/hansa demo $(ARGS)

test:
	@tools/install dev
	@$(RUN) pytest -q -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

check:
	@tools/install dev
	@$(RUN) ruff check -q .
	@$(RUN) ruff format -q --check .
	@$(RUN) mypy
	@$(VENV)/bin/lint-imports --no-logo
	@$(VENV)/bin/python tools/gates.py
	@tools/scripts
	@$(RUN) zensical build --clean --strict
	@$(VENV)/bin/python tools/audit.py

audit:
	@tools/install dev
	@$(VENV)/bin/python tools/audit.py --required $(ARGS)

sbom:
	@tools/install dev
	@$(VENV)/bin/python tools/sbom.py $(ARGS)

faults:
	@tools/install dev
	@PYTHONPATH=tests $(RUN) faults $(or $(ARGS),random --hours 1)

dst:
	@tools/install dev
	@PYTHONPATH=tests $(RUN) dst $(ARGS)

agree:
	@tools/install dev
	@PYTHONPATH=tests $(RUN) agreement $(ARGS)

fuzz:
	@tools/install dev
	@PYTHONPATH=tests $(RUN) fuzz $(or $(ARGS),codec --seconds 60)

bench:
	@tools/install dev
	@for script in benchmarks/*.py; do $(VENV)/bin/python "$$script" $(ARGS) || exit 1; done

bench-simulators:
	@tools/install dev
	@$(VENV)/bin/python benchmarks/simulators/compare.py $(ARGS)

docs:
	@tools/install dev
	@$(VENV)/bin/python tools/reference.py
	@$(RUN) zensical build --clean --strict

scripts:
	@tools/scripts --required

shots:
	@tools/install dev
	@PYTHONPATH=tests:tests/api:tests/ui $(RUN) shots $(ARGS)
