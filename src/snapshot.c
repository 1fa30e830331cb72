/*-------------------------------------------------------------------------
 *
 * snapshot.c
 *		Sets of finished transactions, as they are stored in cursors.
 *
 * A window of events is the difference of two such sets. Only top-level
 * transactions count: the outbox is stamped with their ids.
 *
 * Results are allocated in the current memory context.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "snapshot.h"

static EviSnapshot *make_snapshot(uint64 xmin, uint64 xmax, int nxip);
static EviSnapshot *normalize(EviSnapshot *snapshot);
static EviSnapshot *parse_snapshot(const char *text);
static uint64 parse_number(const char **at);

/*
 * The active snapshot as a set. The transaction's own id, if it has one, is
 * not marked in any way: the server's snapshots leave it out, so that it
 * seems finished as soon as a later transaction is. Callers that may have an
 * id say with evi_snapshot_with() or evi_snapshot_without() what they mean.
 */
EviSnapshot *
evi_snapshot_active(void)
{
	return evi_snapshot_from_datum(DirectFunctionCall1(pg_current_snapshot, (Datum) 0));
}

/* the set of all transactions that there can be */
EviSnapshot *
evi_snapshot_everything(void)
{
	return make_snapshot(PG_INT64_MAX, PG_INT64_MAX, 0);
}

/* the same set, and xid in it */
EviSnapshot *
evi_snapshot_with(const EviSnapshot *base, uint64 xid)
{
	EviSnapshot *result;

	if (evi_snapshot_sees(base, xid))
		return evi_snapshot_copy(base);

	if (xid < base->xmax)
	{
		result = make_snapshot(base->xmin, base->xmax, base->nxip - 1);
		result->nxip = 0;
		for (int i = 0; i < base->nxip; i++)
			if (base->xip[i] != xid)
				result->xip[result->nxip++] = base->xip[i];
		return normalize(result);
	}

	/* what lies between is unfinished, and so has to be named from now on */
	result = make_snapshot(base->xmin, xid + 1, base->nxip + (int) (xid - base->xmax));
	memcpy(result->xip, base->xip, sizeof(uint64) * base->nxip);
	for (uint64 x = base->xmax; x < xid; x++)
		result->xip[base->nxip + (int) (x - base->xmax)] = x;
	return normalize(result);
}

/* the same set, but for xid */
EviSnapshot *
evi_snapshot_without(const EviSnapshot *base, uint64 xid)
{
	EviSnapshot *result;
	int			at = 0;

	if (!evi_snapshot_sees(base, xid))
		return evi_snapshot_copy(base);

	result = make_snapshot(base->xmin, base->xmax, base->nxip + 1);
	while (at < base->nxip && base->xip[at] < xid)
		at++;
	memcpy(result->xip, base->xip, sizeof(uint64) * at);
	result->xip[at] = xid;
	memcpy(result->xip + at + 1, base->xip + at, sizeof(uint64) * (base->nxip - at));
	return normalize(result);
}

/* is the transaction finished in it? */
bool
evi_snapshot_sees(const EviSnapshot *snapshot, uint64 xid)
{
	int			low = 0;
	int			high = snapshot->nxip;

	if (xid < snapshot->xmin)
		return true;
	if (xid >= snapshot->xmax)
		return false;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (snapshot->xip[middle] == xid)
			return false;
		if (snapshot->xip[middle] < xid)
			low = middle + 1;
		else
			high = middle;
	}
	return true;
}

/* Does the later one see all that the earlier one does, and more? */
bool
evi_snapshot_is_ahead(const EviSnapshot *later, const EviSnapshot *earlier)
{
	if (later->xmax < earlier->xmax)
		return false;
	for (int i = 0; i < later->nxip; i++)
		if (evi_snapshot_sees(earlier, later->xip[i]))
			return false;
	return !evi_snapshot_equal(later, earlier);
}

bool
evi_snapshot_equal(const EviSnapshot *a, const EviSnapshot *b)
{
	return a->xmin == b->xmin && a->xmax == b->xmax && a->nxip == b->nxip &&
		memcmp(a->xip, b->xip, sizeof(uint64) * a->nxip) == 0;
}

EviSnapshot *
evi_snapshot_copy(const EviSnapshot *snapshot)
{
	EviSnapshot *result = make_snapshot(snapshot->xmin, snapshot->xmax, snapshot->nxip);

	memcpy(result->xip, snapshot->xip, sizeof(uint64) * snapshot->nxip);
	return result;
}

/* the layout of a pg_snapshot is the server's secret; its text is not */
Datum
evi_snapshot_to_datum(const EviSnapshot *snapshot)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, UINT64_FORMAT ":" UINT64_FORMAT ":",
					 snapshot->xmin, snapshot->xmax);
	for (int i = 0; i < snapshot->nxip; i++)
		appendStringInfo(&text, "%s" UINT64_FORMAT, i > 0 ? "," : "", snapshot->xip[i]);

	return DirectFunctionCall1(pg_snapshot_in, CStringGetDatum(text.data));
}

EviSnapshot *
evi_snapshot_from_datum(Datum datum)
{
	char	   *text = DatumGetCString(DirectFunctionCall1(pg_snapshot_out, datum));
	EviSnapshot *result = parse_snapshot(text);

	pfree(text);
	return result;
}

static EviSnapshot *
make_snapshot(uint64 xmin, uint64 xmax, int nxip)
{
	EviSnapshot *result = palloc(offsetof(EviSnapshot, xip) + sizeof(uint64) * nxip);

	result->xmin = xmin;
	result->xmax = xmax;
	result->nxip = nxip;
	return result;
}

/* so that equal sets look the same */
static EviSnapshot *
normalize(EviSnapshot *snapshot)
{
	snapshot->xmin = snapshot->nxip > 0 ? snapshot->xip[0] : snapshot->xmax;
	return snapshot;
}

static EviSnapshot *
parse_snapshot(const char *text)
{
	const char *at = text;
	uint64		xmin = parse_number(&at);
	uint64		xmax = parse_number(&at);
	int			nxip = 0;
	EviSnapshot *result;

	for (const char *c = at; *c; c++)
		if (c == at || *c == ',')
			nxip++;

	result = make_snapshot(xmin, xmax, nxip);
	for (int i = 0; i < nxip; i++)
		result->xip[i] = parse_number(&at);
	return normalize(result);
}

/* reads a number and steps over what ends it */
static uint64
parse_number(const char **at)
{
	char	   *end;
	uint64		result = strtoull(*at, &end, 10);

	*at = *end ? end + 1 : end;
	return result;
}
