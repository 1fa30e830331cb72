/*-------------------------------------------------------------------------
 *
 * function.c
 *		Functions of events that rules name.
 *
 * They are named by text, and looked up as the rule's owner, with the
 * search_path that is in force. What somebody else could replace is not called.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "compat.h"
#include "function.h"
#include "relation.h"

static bool may_be_called(Oid function);
static Oid	owner_of(Oid function);

/* "what" is the part that it plays, and nargs becomes 2 if it takes the rule's config */
Oid
evi_function_find(const char *what, const char *name, int *nargs)
{
	Oid			args[2] = {get_rel_type_id(evi_relation_oid(EVI_EVENT)), JSONBOID};
	List	   *names = stringToQualifiedNameList(name, NULL);
	Oid			function = InvalidOid;

	/*
	 * The one that takes the configuration, if there are both. One that a
	 * stranger has put beside the owner's does not count.
	 */
	for (int n = 2; n > 0 && !may_be_called(function); n--)
	{
		Oid			found = LookupFuncName(names, n, args, true);

		if (OidIsValid(function) && !may_be_called(found))
			continue;
		function = found;
		*nargs = n;
	}
	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("%s function %s(evinbox.event) or %s(evinbox.event, jsonb) does not exist",
						what, name, name)));
	if (get_func_prokind(function) != PROKIND_FUNCTION || get_func_retset(function))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s \"%s\" is not a plain function", what, name),
				 errhint("It must be neither a procedure nor an aggregate nor return a set.")));
	if (object_aclcheck(ProcedureRelationId, function, GetUserId(), ACL_EXECUTE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" may not execute %s function \"%s\"",
						GetUserNameFromId(GetUserId(), false), what, name),
				 errhint("Use GRANT EXECUTE ON FUNCTION.")));

	/* whoever may replace the function can do whatever the rule's owner may */
	if (!may_be_called(function))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("%s function \"%s\" belongs to role \"%s\", which is neither the rule's owner nor a superuser",
						what, name, GetUserNameFromId(owner_of(function), true)),
				 errhint("Use ALTER FUNCTION ... OWNER TO \"%s\", or a function of that role's own that calls it.",
						 GetUserNameFromId(GetUserId(), false))));
	return function;
}

Datum
evi_function_call(FmgrInfo *function, int nargs, Datum event, Datum config, bool *isnull)
{
	LOCAL_FCINFO(call, 2);
	Datum		result;

	InitFunctionCallInfoData(*call, function, nargs, InvalidOid, NULL, NULL);
	call->args[0] = (NullableDatum) {event, false};
	call->args[1] = (NullableDatum) {config, false};
	result = FunctionCallInvoke(call);
	*isnull = call->isnull;
	return result;
}

static bool
may_be_called(Oid function)
{
	return OidIsValid(function) &&
		(owner_of(function) == GetUserId() || superuser_arg(owner_of(function)));
}

static Oid
owner_of(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid			result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	result = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);
	return result;
}
