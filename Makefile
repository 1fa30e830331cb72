# evinbox: build, install and test
#
#   make && make install      build and install for the server of $(PG_CONFIG)
#   make installcheck         test against the running server (see below)
#   make check                test in throw-away clusters; needs root and Debian
#   make check-matrix         the same with each supported version of PostgreSQL,
#                             and pg_upgrade from the oldest one
#   make check-deep           the same with assertions, without caches, under valgrind
#   make check-history        kill everything again and again, for long (ROUNDS=100)
#   make demo                 show it at work on this machine's changelogs
#   make bench                measure it
#
# "make installcheck" wants a superuser's server with the extension installed.
# The isolation tests also want evinbox.enabled = off, as in test/conf.

ifneq (,$(filter check check-matrix check-deep check-history demo bench,$(MAKECMDGOALS)))

# These install what they need, PostgreSQL included, so they cannot start from
# pg_config; and PGXS has a "check" of its own, which only refuses.
check check-history demo bench:
	@test/run $@

check-matrix:
	@test/matrix check

check-deep:
	@test/deep

.PHONY: check check-matrix check-deep check-history demo bench

else

MODULE_big = evinbox
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))
PGFILEDESC = "evinbox - domain events, dispatched to inboxes"

EXTENSION = evinbox
DATA = $(sort $(wildcard sql/evinbox--*.sql))

# := because PGXS asks "ifdef", which is true of any unexpanded text.
REGRESS := $(sort $(notdir $(basename $(wildcard test/sql/*.sql))))
ISOLATION := $(sort $(notdir $(basename $(wildcard test/specs/*.spec))))
PROVE_TESTS := $(sort $(wildcard test/t/*.pl))
TAP_TESTS := $(if $(PROVE_TESTS),1)

# pg_regress reads inputs from --inputdir, but looks for expected/ in
# --outputdir first.  That is "." unless said otherwise, and PGXS says otherwise
# for isolation tests.
REGRESS_OPTS = --inputdir=test
ISOLATION_OPTS = --inputdir=test --outputdir=.

# Bitcode would let JIT inline our functions, which are not worth inlining; and
# it can be built only with the very clang PostgreSQL was built with.
override with_llvm = no

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# PGXS clears PROVE_FLAGS, so this follows it.
override PROVE_FLAGS += -I test/perl

# PGXS tracks no headers.
$(OBJS): $(wildcard src/*.h)

endif
