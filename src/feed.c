/*-------------------------------------------------------------------------
 *
 * feed.c
 *		Feeds: whose events, and the newest of them that the caller may see.
 *
 * A feed shows what a query of evinbox.event by the same user would: whoever
 * may read the table may read feeds, and nobody else. Where row-level security
 * applies to that user, such a query is what is run; else the indexes are read
 * directly.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/qunique.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "evinbox.h"
#include "feed.h"
#include "query.h"
#include "relation.h"

#define MAX_PAGE 1000
#define MAX_SUBJECTS 10000

/* what each query ends with; an inner LIMIT stops at what the page needs */
#define NEWEST " ORDER BY id DESC LIMIT $4"

static EviFeed *make_feed(EviEventIndex index, int nkeys);
static bool get_subject(JsonbValue *pair, EviKey *key);
static text *get_text(JsonbContainer *pair, int n);
static void refuse_subject(int n);
static int	compare_keys(const void *a, const void *b);
static int	compare_texts(const text *a, const text *b);
static int	read_by_query(const EviFeed *feed, int64 upto, int most, HeapTuple *tuples);
static Datum column_of(const EviFeed *feed, int n);
static HeapTuple copy_tuple(Datum event);

EviFeed *
evi_feed_of_subject(text *subject_type, text *subject_id)
{
	EviFeed    *feed = make_feed(EVI_EVENT_FEED_OF_SUBJECT, 1);

	feed->keys[0].column[0] = subject_type;
	feed->keys[0].column[1] = subject_id;
	return feed;
}

EviFeed *
evi_feed_of_subjects(Jsonb *subjects)
{
	EviFeed    *feed;
	int			nsubjects;

	if (!JB_ROOT_IS_ARRAY(subjects) || JB_ROOT_IS_SCALAR(subjects))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("subjects must be a JSON array"),
				 errhint("Write them as '[[\"Issue\", 42], [\"Project\", 7]]'.")));
	nsubjects = JB_ROOT_COUNT(subjects);
	if (nsubjects > MAX_SUBJECTS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a feed has at most %d subjects", MAX_SUBJECTS),
				 errhint("Give each event a scope that stands for many subjects, and read the feed of that.")));

	feed = make_feed(EVI_EVENT_FEED_OF_SUBJECT, nsubjects);
	for (int n = 0; n < nsubjects; n++)
		if (!get_subject(getIthJsonbValueFromContainer(&subjects->root, n), &feed->keys[n]))
			refuse_subject(n);

	/* one after the other in the index, and each once */
	qsort(feed->keys, nsubjects, sizeof(EviKey), compare_keys);
	feed->nkeys = qunique(feed->keys, nsubjects, sizeof(EviKey), compare_keys);
	return feed;
}

EviFeed *
evi_feed_of_actor(text *actor)
{
	EviFeed    *feed = make_feed(EVI_EVENT_FEED_OF_ACTOR, 1);

	feed->keys[0].column[0] = actor;
	return feed;
}

EviFeed *
evi_feed_of_scope(text *scope)
{
	EviFeed    *feed = make_feed(EVI_EVENT_FEED_OF_SCOPE, 1);

	feed->keys[0].column[0] = scope;
	return feed;
}

/* the argument that says how long a page is */
int
evi_feed_max(FunctionCallInfo fcinfo, int argno)
{
	int			max = PG_ARGISNULL(argno) ? 0 : PG_GETARG_INT32(argno);

	if (max < 1 || max > MAX_PAGE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max must be between 1 and %d", MAX_PAGE),
				 errhint("Read on with before_id.")));
	return max;
}

/* the highest id of a page, by the argument that says where it begins; 0 is lower than all */
int64
evi_feed_upto(FunctionCallInfo fcinfo, int argno)
{
	int64		before;

	if (PG_ARGISNULL(argno))
		return PG_INT64_MAX;
	before = PG_GETARG_INT64(argno);
	return before > PG_INT64_MIN ? before - 1 : before;
}

/* Locks evinbox.event, which the caller of the function must be allowed to read. */
Relation
evi_feed_open(void)
{
	Relation	event = table_open(evi_relation_oid(EVI_EVENT), AccessShareLock);
	Oid			relid = RelationGetRelid(event);

	if (pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(relid, GetUserId(), ACL_SELECT, ACLMASK_ALL) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, RelationGetRelationName(event));
	return event;
}

/* The newest events up to an id, as tuples of evinbox.event. Returns how many. */
int
evi_feed_read(const EviFeed *feed, Relation event, int64 upto, int most, HeapTuple *tuples)
{
	if (check_enable_rls(RelationGetRelid(event), InvalidOid, false) == RLS_ENABLED)
		return read_by_query(feed, upto, most, tuples);
	return evi_merge_read(event, feed->index, feed->keys, feed->nkeys, upto, most,
						  GetActiveSnapshot(), tuples);
}

static EviFeed *
make_feed(EviEventIndex index, int nkeys)
{
	EviFeed    *feed = palloc(sizeof(EviFeed));

	feed->index = index;
	feed->nkeys = nkeys;
	feed->keys = palloc0(sizeof(EviKey) * Max(nkeys, 1));
	return feed;
}

/* [type, id]; false if it is anything else */
static bool
get_subject(JsonbValue *pair, EviKey *key)
{
	JsonbContainer *container = pair->type == jbvBinary ? pair->val.binary.data : NULL;

	if (!container || !JsonContainerIsArray(container) || JsonContainerSize(container) != 2)
		return false;
	key->column[0] = get_text(container, 0);
	key->column[1] = get_text(container, 1);
	return key->column[0] && key->column[1];
}

/* NULL if it is neither a string nor a number */
static text *
get_text(JsonbContainer *pair, int n)
{
	JsonbValue *value = getIthJsonbValueFromContainer(pair, n);

	if (value->type == jbvString)
		return cstring_to_text_with_len(value->val.string.val, value->val.string.len);
	if (value->type == jbvNumeric)
		return cstring_to_text(DatumGetCString(DirectFunctionCall1(numeric_out,
																   NumericGetDatum(value->val.numeric))));
	return NULL;
}

static void
refuse_subject(int n)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("subject number %d is not a pair of type and id", n + 1),
			 errhint("Write them as '[[\"Issue\", 42], [\"Project\", 7]]'.")));
}

static int
compare_keys(const void *a, const void *b)
{
	const EviKey *left = a;
	const EviKey *right = b;
	int			result = compare_texts(left->column[0], right->column[0]);

	return result != 0 ? result : compare_texts(left->column[1], right->column[1]);
}

/* as the columns' collation does */
static int
compare_texts(const text *a, const text *b)
{
	int			alen = VARSIZE_ANY_EXHDR(a);
	int			blen = VARSIZE_ANY_EXHDR(b);
	int			result = memcmp(VARDATA_ANY(a), VARDATA_ANY(b), Min(alen, blen));

	return result != 0 ? result : (alen > blen) - (alen < blen);
}

/* as the caller, to whom the table's policies apply */
static int
read_by_query(const EviFeed *feed, int64 upto, int most, HeapTuple *tuples)
{
	static EviQuery subjects = {
		.sql = "SELECT x.e FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS s (subject_type, subject_id)"
		" CROSS JOIN LATERAL (SELECT e, e.id FROM evinbox.event AS e"
		" WHERE e.subject_type OPERATOR(pg_catalog.=) s.subject_type"
		" AND e.subject_id OPERATOR(pg_catalog.=) s.subject_id"
		" AND e.id OPERATOR(pg_catalog.<=) $3" NEWEST ") AS x" NEWEST,
		.expected = SPI_OK_SELECT,
		.nargs = 4,
		.argtypes = {TEXTARRAYOID, TEXTARRAYOID, INT8OID, INT4OID},
	};
	static EviQuery actor = {
		.sql = "SELECT e FROM evinbox.event AS e WHERE e.actor OPERATOR(pg_catalog.=) $1[1]"
		" AND e.id OPERATOR(pg_catalog.<=) $3" NEWEST,
		.expected = SPI_OK_SELECT,
		.nargs = 4,
		.argtypes = {TEXTARRAYOID, TEXTARRAYOID, INT8OID, INT4OID},
	};
	static EviQuery scope = {
		.sql = "SELECT e FROM evinbox.event AS e WHERE e.scope OPERATOR(pg_catalog.=) $1[1]"
		" AND e.id OPERATOR(pg_catalog.<=) $3" NEWEST,
		.expected = SPI_OK_SELECT,
		.nargs = 4,
		.argtypes = {TEXTARRAYOID, TEXTARRAYOID, INT8OID, INT4OID},
	};
	EviQuery   *query = feed->index == EVI_EVENT_FEED_OF_SUBJECT ? &subjects :
		feed->index == EVI_EVENT_FEED_OF_ACTOR ? &actor : &scope;
	MemoryContext context = CurrentMemoryContext;
	Datum		args[4] = {column_of(feed, 0), column_of(feed, 1), Int64GetDatum(upto),
	Int32GetDatum(most)};
	int			count;

	evi_query_open();
	count = (int) evi_query_read(query, args, NULL);
	for (int i = 0; i < count; i++)
	{
		bool		isnull;
		Datum		event = evi_query_value(i, 1, &isnull);
		MemoryContext former = MemoryContextSwitchTo(context);

		tuples[i] = copy_tuple(event);
		MemoryContextSwitchTo(former);
	}
	evi_query_close();
	return count;
}

/* an array of the keys' values; empty if they have no such column */
static Datum
column_of(const EviFeed *feed, int n)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(feed->nkeys, 1));
	int			count = 0;

	for (int i = 0; i < feed->nkeys; i++)
		if (feed->keys[i].column[n])
			values[count++] = PointerGetDatum(feed->keys[i].column[n]);
	return PointerGetDatum(construct_array(values, count, TEXTOID, -1, false, TYPALIGN_INT));
}

static HeapTuple
copy_tuple(Datum event)
{
	HeapTuple	tuple = palloc0(sizeof(HeapTupleData));

	tuple->t_data = DatumGetHeapTupleHeader(datumCopy(event, false, -1));
	tuple->t_len = HeapTupleHeaderGetDatumLength(tuple->t_data);
	ItemPointerSetInvalid(&tuple->t_self);
	return tuple;
}
