# evinbox: build, install and test
#
#   make && make install      build and install for the server of $(PG_CONFIG)
#   make installcheck         test against the running server (see below)
#   make check                test in throw-away clusters; needs root and Debian
#   make check-matrix         the same with each supported version of PostgreSQL,
#                             and pg_upgrade from the oldest one
#   make check-deep           the same with assertions, without caches, under valgrind
#   make check-history        kill everything again and again, for long (ROUNDS=100)
#   make check-smith          try SQL made at random (SMITH_SECONDS=600)
#   make demo                 show it at work on this machine's changelogs
#   make bench                measure it
#
# "make installcheck" wants a superuser's server with the extension installed.
# The isolation tests also want evinbox.enabled = off, as in test/conf.

ifneq (,$(filter check check-matrix check-deep check-history check-smith demo bench,$(MAKECMDGOALS)))

# These install what they need, PostgreSQL included, so they cannot start from
# pg_config; and PGXS has a "check" of its own, which only refuses.
check check-history check-smith demo bench:
	@test/run $@

check-matrix:
	@test/matrix check

check-deep:
	@test/deep

.PHONY: check check-matrix check-deep check-history check-smith demo bench

else

MODULE_big = evinbox
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))
PGFILEDESC = "evinbox - domain events, dispatched to inboxes"

# What calls the outside is a library of its own, which couriers load: nobody
# else has libcurl in their process.
HTTP_OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/http/*.c)))
HTTP_LIBRARY = evinbox_http$(DLSUFFIX)
HTTP_LIBS ?= -lcurl -lcrypto

# A program that the tests have that library do things with.
HTTP_DRIVER = test/http/driver

EXTRA_CLEAN = $(HTTP_LIBRARY) $(HTTP_OBJS) $(HTTP_DRIVER)

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
$(HTTP_OBJS): $(wildcard src/http/*.h) src/http.h

# PGXS builds one library.  The server loads all into one space of names, so
# this one keeps to itself what it does not have to show.
$(HTTP_OBJS): override CFLAGS += -fvisibility=hidden

$(HTTP_LIBRARY): $(HTTP_OBJS)
	$(LINK.shared) -o $@ $(HTTP_OBJS) $(LDFLAGS) $(LDFLAGS_SL) $(HTTP_LIBS)

all: $(HTTP_LIBRARY)

install: install-http

install-http: all installdirs
	$(INSTALL_SHLIB) $(HTTP_LIBRARY) '$(DESTDIR)$(pkglibdir)/'

uninstall: uninstall-http

uninstall-http:
	rm -f '$(DESTDIR)$(pkglibdir)/$(HTTP_LIBRARY)'

# It has a resolver of its own, which the library's libcurl has to find in it.
$(HTTP_DRIVER): $(HTTP_DRIVER).c src/address.c src/address.h src/http.h
	$(CC) $(CFLAGS) $(CPPFLAGS) -rdynamic -o $@ $(HTTP_DRIVER).c src/address.c -ldl

installcheck: $(HTTP_DRIVER)

.PHONY: install-http uninstall-http

endif
