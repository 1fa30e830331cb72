/*-------------------------------------------------------------------------
 *
 * query.h
 *		SQL from C: the one place that calls SPI.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_QUERY_H
#define EVI_QUERY_H

#include "executor/spi.h"
#include "utils/array.h"
#include "utils/tuplestore.h"

/* a statement of our own, prepared at its first use in a session */
typedef struct EviQuery
{
	const char *sql;			/* names schema-qualified, operators too */
	int			expected;		/* the SPI_OK_* code */
	int			nargs;
	Oid			argtypes[20];
	SPIPlanPtr	plan;			/* kept by evi_query_run() */
} EviQuery;

/* who is the user, and where are names looked up */
typedef struct EviSection
{
	Oid			userid;
	int			sec_context;
	int			guc_level;
} EviSection;

extern void evi_section_enter(EviSection *section);
extern void evi_section_leave(EviSection *section);

extern void evi_query_open(void);
extern void evi_query_close(void);
extern uint64 evi_query_run(EviQuery *query, Datum *args, const char *nulls, long limit);
extern uint64 evi_query_read(EviQuery *query, Datum *args, const char *nulls);
extern uint64 evi_query_run_alone(EviQuery *query, Datum *args, const char *nulls);
extern uint64 evi_query_run_latest(EviQuery *query, Datum *args);
extern void evi_query_utility(const char *sql);
extern void evi_query_select(const char *sql);
extern Datum evi_query_array(Oid type, Datum *values, bool *isnull, int count);
extern Datum evi_query_value(uint64 row, int column, bool *isnull);

extern int	evi_search_path_set(const char *search_path);

extern SPIPlanPtr evi_condition_prepare(const char *condition);
extern void evi_condition_run(SPIPlanPtr plan, ArrayType *events, MemoryContext context,
							  int64 **ids, int *count);

extern Tuplestorestate *evi_statement_open(int nevents);
extern SPIPlanPtr evi_statement_prepare(const char *statement);
extern void evi_statement_run(SPIPlanPtr plan);

#endif							/* EVI_QUERY_H */
