/*-------------------------------------------------------------------------
 *
 * errand.c
 *		Does a database need a courier?
 *
 * It does if there is an endpoint, or a request, new or old. The coordinator
 * looks; who has a request and finds no courier wakes it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/snapmgr.h"

#include "errand.h"
#include "evinbox.h"
#include "query.h"
#include "shmem.h"

static bool has_calls(void);
static bool has_calls_by_now(void);
static void set_wanted(bool wanted, bool *fits);

/* Is there one, or is one to be started? */
bool
evi_errand_is_wanted(void)
{
	EviWorker  *courier;
	bool		result;

	evi_shmem_lock(false);
	courier = evi_shmem_find(EVI_COURIER, MyDatabaseId, InvalidOid, 0);
	result = courier && courier->wanted;
	evi_shmem_unlock();
	return result;
}

/* Returns whether there is no place for the one that there should be. SPI is connected, in a section. */
bool
evi_errand_look(void)
{
	static bool complained = false;
	bool		fits = true;
	bool		wanted = has_calls();

	set_wanted(wanted, &fits);

	/* who had a request meanwhile has woken the courier that leaves, and not us */
	if (!wanted && has_calls_by_now())
		set_wanted(true, &fits);
	if (!fits && !complained)
		ereport(LOG,
				(errmsg("evinbox wants a courier and may have no more workers"),
				 errhint("Raise evinbox.max_workers.")));
	complained = !fits;
	return !fits;
}

/* It leaves, if it is there. */
void
evi_errand_want_none(void)
{
	bool		fits;

	if (evi_errand_is_wanted())
		set_wanted(false, &fits);
}

static bool
has_calls(void)
{
	static EviQuery select = {
		.sql = "SELECT EXISTS (SELECT FROM evinbox.endpoint)"
		" OR EXISTS (SELECT FROM evinbox_internal.request)",
		.expected = SPI_OK_SELECT,
		.nargs = 0,
	};
	bool		isnull;

	(void) evi_query_read(&select, NULL, NULL);
	return DatumGetBool(evi_query_value(0, 1, &isnull));
}

/* likewise, with what is committed while this transaction is under way */
static bool
has_calls_by_now(void)
{
	bool		result;

	PushActiveSnapshot(GetLatestSnapshot());
	result = has_calls();
	PopActiveSnapshot();
	return result;
}

static void
set_wanted(bool wanted, bool *fits)
{
	bool		was_wanted;
	EviWorker  *courier;

	evi_shmem_lock(true);
	courier = evi_shmem_find(EVI_COURIER, MyDatabaseId, InvalidOid, 0);
	was_wanted = courier && courier->wanted;
	if (wanted)
		*fits = evi_shmem_want(EVI_COURIER, MyDatabaseId, InvalidOid, 0);
	else if (courier)
		courier->wanted = false;
	evi_shmem_unlock();
	if (wanted != was_wanted)
		evi_shmem_wake(EVI_LAUNCHER, InvalidOid);
}
