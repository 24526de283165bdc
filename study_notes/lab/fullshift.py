from lab import *
from ditta_core.normalisation import statistics_shift
res={}
for mn,s in(('city',CITY),('camvid',CAMVID)):
    m=load_model(s)
    for cond in ('clean','fog:3','low_light:3','noise:3'):
        v=[]
        for k,t,ev in episodes(50):
            co=corruptor(cond,t); clip=np.stack([co(image(t),i) for i in range(1 if cond=='clean' else 3)]); L,S,T=bn_stats(m,m.preprocess(clip,(368,480),CPU)); v.append(statistics_shift(S,T))
        res[mn+cond]=v; print(mn,cond,'mean %.4f'%np.mean(v),np.round(np.sort(v),3),flush=True); save('fullshift',res)
